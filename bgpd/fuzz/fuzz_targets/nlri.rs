#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnpike_bgp_hostile::fuzz::nlri(data));
