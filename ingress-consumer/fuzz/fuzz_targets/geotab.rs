//! Any bytes, as `geotab`'s.
#![no_main]

use ingress_consumer_fuzz::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: Target::install("geotab"), |data: &[u8]| Target::installed().run(data));
