//! Generated traffic to a syslog listener over TCP, octet-counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::pace::Pace;
use crate::push::Pusher;
use crate::template::Stamp;
use crate::traffic::{Shape, Traffic};

/// Time for the listener to take a batch; it does not read while Kafka is away.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends on one connection until the pace ends.
///
/// # Errors
/// A mix without lines, or a connection that cannot be made or breaks: what it had taken may be lost, which is what
/// plain syslog promises.
pub async fn send(
    address: String,
    pace: Arc<Pace>,
    traffic: Arc<Traffic>,
    pusher: Arc<Pusher>,
) -> anyhow::Result<()> {
    anyhow::ensure!(traffic.has(Shape::Syslog), "--syslog-tcp: --mix has neither sshd nor access");
    let mut stream =
        TcpStream::connect(&address).await.with_context(|| format!("cannot connect to {address}"))?;
    let (mut lines, mut frames) = (Vec::new(), Vec::new());
    while let Some((first_seq, count)) = pace.next().await {
        lines.clear();
        frames.clear();
        let stamp = Stamp::new(Timestamp::now());
        traffic.write(Shape::Syslog, &stamp, first_seq, count, &mut lines, |lines, start| {
            let line = lines.get(start..).unwrap_or_default();
            frames.extend_from_slice(line.len().to_string().as_bytes());
            frames.push(b' ');
            frames.extend_from_slice(line);
        });
        tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(&frames))
            .await
            .with_context(|| format!("{address} took nothing for {WRITE_TIMEOUT:?}"))?
            .with_context(|| format!("the connection to {address} broke"))?;
        pusher.stats.unconfirmed.fetch_add(count, Ordering::Relaxed);
        pusher.stats.bytes.fetch_add(frames.len() as u64, Ordering::Relaxed);
    }
    stream.shutdown().await.context("the connection broke at its end")
}
