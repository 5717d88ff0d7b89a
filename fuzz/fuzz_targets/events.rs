//! Events from JSON of any kind, through the wire format, to signals.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::events(bytes));
