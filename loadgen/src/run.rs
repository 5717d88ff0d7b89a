//! `run`: generated traffic over several connections.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::cli::RunArgs;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::push::{Push, Pusher};
use crate::report::Report;
use crate::syslog;
use crate::template::Stamp;
use crate::traffic::{Shape, Traffic};

/// Room for an event, bytes.
const EVENT_BYTES: usize = 320;

/// Runs the workers until the events, the time or the user's patience are over.
///
/// # Errors
/// No token, or a journal that cannot be written.
pub async fn run(args: RunArgs, pusher: Arc<Pusher>) -> anyhow::Result<Report> {
    let (count, rate) = (args.count.map(|count| count.get()), args.rate.map(|rate| rate.get()));
    let pace = Arc::new(Pace::new(args.batch.get(), count, args.duration, rate));
    let traffic = Arc::new(Traffic::new(&pusher.run, args.seed, &args.mix));
    let _progress = Progress::show(Arc::clone(&pusher), count);
    let stop = tokio::spawn({
        let pace = Arc::clone(&pace);
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                pace.stop();
            }
        }
    });
    let mut workers = JoinSet::new();
    for _ in 0..args.connections.get() {
        let (pace, traffic, pusher) = (Arc::clone(&pace), Arc::clone(&traffic), Arc::clone(&pusher));
        match &args.syslog_tcp {
            Some(address) => workers.spawn(syslog::send(address.clone(), pace, traffic, pusher)),
            None => {
                let senders = args.senders.get() as u64;
                let batch = args.batch.get();
                let tokens = pusher.tokens()? as u64;
                workers.spawn(async move {
                    let mut connection = pusher.connection();
                    while let Some((first_seq, count)) = pace.next().await {
                        let turn = first_seq / batch;
                        let push = push(&traffic, first_seq, count, turn % senders, turn % tokens);
                        pusher.push(&mut connection, push).await?;
                    }
                    Ok(())
                })
            }
        };
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    stop.abort();
    Ok(pusher.stats.report(&pusher.run))
}

fn push(traffic: &Traffic, first_seq: u64, count: u64, sender: u64, token: u64) -> Push {
    let shape = traffic.shape(first_seq);
    let mut body = Vec::with_capacity(usize::try_from(count).unwrap_or(0).saturating_mul(EVENT_BYTES));
    traffic
        .write(shape, &Stamp::new(Timestamp::now()), first_seq, count, &mut body, |out, _| out.push(b'\n'));
    Push {
        path: "/v1/events",
        content_type: match shape {
            Shape::Json => "application/x-ndjson",
            Shape::Syslog => "text/plain",
        },
        sender: format!("loadgen-{sender}"),
        token: usize::try_from(token).unwrap_or(0),
        body: Bytes::from(body),
        first_seq,
        count,
    }
}
