//! Sigma rules: load, route, match, correlate; pure.
