//! Any bytes, as `samsara`'s.
#![no_main]

use ingress_consumer_fuzz::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: Target::install("samsara"), |data: &[u8]| Target::installed().run(data));
