//! Named places where a test can end or stop the process, and named guards that it can switch off.
//!
//! Nothing of it is compiled without the feature `failpoints`, which no release build has. With it, the environment
//! variable `FAILPOINTS` says what happens where, in the grammar of the crate `fail`:
//!
//! ```text
//! FAILPOINTS="sink.copied=4*off->1*return(kill)"     the fifth batch that is copied ends the process as kill -9 does
//! FAILPOINTS="sink.copied=1*return(stop)"            the first one stops it until SIGCONT
//! FAILPOINTS="sink.source_filter=return"             the guard of that name is off
//! ```

/// A place to fail: `kill` ends the process on the spot, `stop` stops it until somebody sends SIGCONT.
#[cfg(feature = "failpoints")]
pub fn failpoint(name: &'static str) {
    use nix::sys::signal::{Signal, raise};

    let wanted = fail::eval(name, |action| action);
    let signal = match wanted.flatten().as_deref() {
        Some("kill") => Signal::SIGKILL,
        Some("stop") => Signal::SIGSTOP,
        _ => return,
    };
    tracing::warn!("failpoint {name}: {signal}");
    if let Err(error) = raise(signal) {
        tracing::error!(%error, "failpoint {name}");
    }
}

/// A place to fail.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn failpoint(_name: &'static str) {}

/// Whether the guard of this name is off: the mutation that a test of the guarantee must notice.
#[cfg(feature = "failpoints")]
pub fn guard_is_off(name: &'static str) -> bool {
    fail::eval(name, |_| ()).is_some()
}

/// Whether the guard of this name is off: never.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn guard_is_off(_name: &'static str) -> bool {
    false
}

/// How many seconds the clock is to be wrong by: `FAILPOINTS="clock=return(-86400)"`.
#[cfg(feature = "failpoints")]
pub fn clock_error_seconds() -> i64 {
    fail::eval("clock", |seconds| seconds).flatten().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// How many seconds the clock is to be wrong by: none.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn clock_error_seconds() -> i64 {
    0
}

/// Reads `FAILPOINTS`, for as long as the process lives.
#[cfg(feature = "failpoints")]
pub(crate) fn arm() {
    std::mem::forget(fail::FailScenario::setup());
    for (name, action) in fail::list() {
        tracing::warn!("failpoint {name} is armed: {action}");
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn arm() {}
