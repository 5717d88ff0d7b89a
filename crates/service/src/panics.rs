//! Panics: defects, logged as errors and fatal.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use crate::metrics;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Makes a panic on any thread end the process with 1 after logging it. A task that died in silence would leave a
/// service that looks healthy and does nothing.
pub(crate) fn make_fatal() {
    panic::set_hook(Box::new(|panic| {
        let message = message(panic.payload());
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if CONTAINED.get() {
            tracing::error!(location, thread, "a defect was contained: {message}");
            return;
        }
        tracing::error!(location, thread, %backtrace, "stopped by a defect, please report it: {message}");
        std::process::exit(1);
    }));
}

/// Calls `f` and turns a panic in it into its message, which is logged and counted: for code that meets bytes from
/// outside, where one poisonous record must not end the process for all others.
///
/// What `f` was changing when it panicked may be half changed: hand it owned or discarded state.
///
/// # Errors
/// The panic's message.
pub fn contain<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CONTAINED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    CONTAINED.set(outer);
    result.map_err(|payload| {
        metrics::SERVICE_PANICS_CONTAINED.add(1);
        message(payload.as_ref()).to_owned()
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_becomes_its_message() {
        assert_eq!(contain(|| 1), Ok(1));
        assert_eq!(contain(|| panic!("row {}", 7)), Err::<(), _>("row 7".to_owned()));
        assert!(!CONTAINED.get());
    }
}
