//! Lines of syslog, access logs and the like.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::lines(bytes));
