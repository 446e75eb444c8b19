//! Any bytes, as `viriciti`'s.
#![no_main]

use ingress_consumer_fuzz::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: Target::install("viriciti"), |data: &[u8]| Target::installed().run(data));
