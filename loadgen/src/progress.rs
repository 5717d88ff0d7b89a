//! How far it is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::push::Pusher;

const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on stderr until it is dropped.
pub struct Progress {
    task: tokio::task::JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows how many events of `total` have been sent.
    pub fn show(pusher: Arc<Pusher>, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(total));
        let task = tokio::spawn(watch(pusher, total, bar.clone()));
        Self { task, bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{bar:30} {human_pos} of {human_len} events, {msg}, {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {human_pos} events, {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn watch(pusher: Arc<Pusher>, total: Option<u64>, bar: Option<ProgressBar>) {
    let mut every = tokio::time::interval(if bar.is_some() { BAR_EVERY } else { LINE_EVERY });
    every.tick().await;
    let (mut before, mut at) = (0, Instant::now());
    loop {
        every.tick().await;
        let stats = &pusher.stats;
        let sent = stats.acknowledged.load(Ordering::Relaxed) + stats.unconfirmed.load(Ordering::Relaxed);
        let rate = (sent - before) as f64 / at.elapsed().as_secs_f64().max(1e-9);
        (before, at) = (sent, Instant::now());
        let retried = stats.retried.load(Ordering::Relaxed);
        let retried = if retried > 0 { format!(", {retried} pushes repeated") } else { String::new() };
        let said = format!("{rate:.0}/s{retried}");
        match &bar {
            Some(bar) => {
                bar.set_position(sent);
                bar.set_message(said);
            }
            None => {
                let of = total.map_or(String::new(), |total| format!(" of {total}"));
                let _ = writeln!(std::io::stderr(), "{sent}{of} events, {said}");
            }
        }
    }
}
