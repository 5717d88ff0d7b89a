//! A proxy in front of Postgres that loses what it is told to lose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a closing message ends on the wire: a simple query's text with its terminator.
const COMMIT: &[u8] = b"COMMIT\0";

/// A listener that forwards to one address at a time.
pub struct Proxy {
    address: String,
    state: Arc<State>,
}

struct State {
    /// Where new connections go.
    target: Mutex<String>,
    /// While true nothing is forwarded; connections stay open.
    black_hole: watch::Sender<bool>,
    /// Each change cuts every connection there is.
    cuts: watch::Sender<u32>,
    /// Changes with every commit that is forwarded.
    forwarded: watch::Sender<()>,
    /// Commits whose answers are still to be lost.
    commits: AtomicU32,
    /// Answers lost so far.
    lost: AtomicU32,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(target: String) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the proxy")?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::new(State {
            target: Mutex::new(target),
            black_hole: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            forwarded: watch::Sender::new(()),
            commits: AtomicU32::new(0),
            lost: AtomicU32::new(0),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A connection that ends, ends: there is nobody to tell.
                    let _ = forward(client, &state).await;
                });
            }
        });
        Ok(Proxy { address, state })
    }

    /// `host:port` of the listener.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends new connections elsewhere; returns where they went before.
    pub fn redirect(&self, target: String) -> String {
        std::mem::replace(&mut self.state.target.lock(), target)
    }

    /// Whether everything is swallowed from now on.
    pub fn black_hole(&self, on: bool) {
        self.state.black_hole.send_replace(on);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts the connections of the next commits after the server has answered and before the client hears of it.
    pub fn lose_answers(&self, commits: u32) {
        self.state.commits.fetch_add(commits, Ordering::AcqRel);
    }

    /// Resolves when a client sends its next commit, which has been forwarded then.
    pub fn committing(&self) -> impl Future<Output = ()> + use<> {
        let mut forwarded = self.state.forwarded.subscribe();
        async move {
            // The sender lives as long as the proxy.
            let _ = forwarded.changed().await;
        }
    }

    /// Answers lost so far.
    pub fn lost(&self) -> u32 {
        self.state.lost.load(Ordering::Acquire)
    }
}

async fn forward(client: TcpStream, state: &State) -> std::io::Result<()> {
    let target = state.target.lock().clone();
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut cuts = state.cuts.subscribe();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let committing = std::sync::atomic::AtomicBool::new(false);
    let up = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from_client.read(&mut buffer).await?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            pass(state).await;
            committing.store(bytes.ends_with(COMMIT), Ordering::Release);
            to_server.write_all(bytes).await?;
            if committing.load(Ordering::Acquire) {
                state.forwarded.send_replace(());
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from_server.read(&mut buffer).await?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            let take = |left: u32| left.checked_sub(1);
            if committing.load(Ordering::Acquire)
                && bytes.windows(COMMIT.len()).any(|window| window == COMMIT)
                && state.commits.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
            {
                state.lost.fetch_add(1, Ordering::AcqRel);
                return Ok(());
            }
            pass(state).await;
            to_client.write_all(bytes).await?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
        _ = cuts.changed() => Ok(()),
    }
}

/// Returns when nothing is swallowed.
async fn pass(state: &State) {
    // The sender lives as long as the proxy.
    let _ = state.black_hole.subscribe().wait_for(|on| !on).await;
}
