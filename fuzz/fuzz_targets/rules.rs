//! The rule loader: any bytes as a rule file.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::rules(bytes));
