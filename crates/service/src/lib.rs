//! The shape of every main: configuration, lifecycle, telemetry, health.
