//! Super-packets from the device, and packets for it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ichord::fuzz::offload(data));
