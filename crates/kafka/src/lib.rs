//! Producer, consumer, offset ledger and topic administration; bytes only.
