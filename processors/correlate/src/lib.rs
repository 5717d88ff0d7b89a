//! Turns signals into incidents over event-time windows.
