//! Bytes of any supported format to an Event; pure.
