//! From the command line to the exit code.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::config::{Configuration, ServiceArgs, parse_valid};
use crate::health::Health;
use crate::shutdown::Shutdown;
use crate::{admin, metrics, panics, telemetry};

/// Exit code for a wrong flag or environment variable: EX_USAGE of sysexits.h.
pub const EXIT_USAGE: u8 = 64;

/// Threads still busy after `run` returned are left behind after this time.
const ABANDON_AFTER: Duration = Duration::from_millis(500);

/// What a service is given beside its configuration. Clones share their state.
#[derive(Clone, Debug)]
pub struct Context {
    /// The request to stop.
    pub shutdown: Shutdown,
    /// Where the service reports what it depends on.
    pub health: Health,
}

impl Context {
    fn new() -> Self {
        Self { shutdown: Shutdown::new(), health: Health::default() }
    }

    /// A context without signals, admin listener or deadline: a test stops the service by
    /// [`Shutdown::request`] and sees its readiness in [`Health::is_ready`].
    pub fn for_test() -> Self {
        Self::new()
    }
}

/// Runs a service from its command line to its exit code: `fn main() -> ExitCode { service::main("tidewatch-sink",
/// tidewatch_sink::run) }`.
///
/// `run` starts with telemetry, metrics, signals and the admin listener in place and is polled on the main thread.
/// It returns once [`Shutdown`] was requested and the service has drained. An error, a panic anywhere, or not
/// returning within [`GRACE`](crate::GRACE) after the request ends the process with 1.
pub fn main<C, F, Fut>(name: &'static str, run: F) -> ExitCode
where
    C: Configuration,
    F: FnOnce(C, Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    match parse_valid::<C>() {
        Ok(config) => {
            let args = config.service().clone();
            serve(name, &args, |context| run(config, context))
        }
        Err(code) => code,
    }
}

/// [`main`] for a configuration that is parsed and validated already: a subcommand that is a service.
pub fn serve<F, Fut>(name: &'static str, args: &ServiceArgs, run: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    supervise(name, args, |context| async {
        let _admin = admin::start(args.admin_listen, &context).await?;
        metrics::start(name);
        run(context).await
    })
}

/// Runs a command that ends by itself, without an admin listener: logs, signals and exit codes as [`serve`] has them.
/// `run` should watch the shutdown if it can take long.
pub fn once<F, Fut>(name: &'static str, args: &ServiceArgs, run: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    supervise(name, args, run)
}

fn supervise<F, Fut>(name: &'static str, args: &ServiceArgs, run: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let context = Context::new();
    let result = start(args, &context).and_then(|runtime| {
        tracing::debug!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
        let result = runtime.block_on(run(context.clone()));
        runtime.shutdown_timeout(ABANDON_AFTER);
        result
    });
    match result {
        Ok(()) => {
            let how = if context.shutdown.is_requested() { "drained" } else { "finished" };
            tracing::debug!("{name} {how}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{name} stopped by an error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &ServiceArgs, context: &Context) -> anyhow::Result<Runtime> {
    telemetry::start(args).context("cannot start logging")?;
    crate::failpoint::arm();
    panics::make_fatal();
    context.shutdown.watch_signals().context("cannot watch for signals")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.worker_threads())
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
