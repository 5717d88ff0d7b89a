//! What a push waits on: a countdown over the batches that hold a share of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Why a batch did not reach the broker, as far as anyone can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The producer's queue is full.
    QueueFull,
    /// The broker refused it or did not answer in time; it may have been stored all the same.
    Delivery(Arc<str>),
    /// Nobody will ever know: the process is stopping.
    Dropped,
}

/// A push under way. It is settled when every batch with a share of it is, and the push itself has been
/// [closed](Self::close).
#[derive(Debug)]
pub struct Ticket {
    /// Batches not settled, and one for the push until it is closed.
    pending: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failure: Option<Failure>,
    done: Option<oneshot::Sender<Result<(), Failure>>>,
}

/// The end of a push: all of it acknowledged, or the first failure.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<(), Failure>>);

impl Receipt {
    /// Waits until the push is settled. Cancel-safe.
    ///
    /// # Errors
    /// The first failure of a batch with a share of it.
    pub async fn wait(&mut self) -> Result<(), Failure> {
        (&mut self.0).await.unwrap_or(Err(Failure::Dropped))
    }
}

impl Ticket {
    /// A push that has no share in a batch yet.
    pub fn new() -> (Arc<Self>, Receipt) {
        let (done, receipt) = oneshot::channel();
        let state = Mutex::new(State { failure: None, done: Some(done) });
        (Arc::new(Self { pending: AtomicUsize::new(1), state }), Receipt(receipt))
    }

    /// Says that the push will have no more shares.
    pub fn close(&self) {
        self.settle(None);
    }

    /// Says that a part of the push could not be added to any batch.
    pub fn fail(&self, failure: Failure) {
        self.state.lock().failure.get_or_insert(failure);
    }

    fn settle(&self, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            self.state.lock().failure.get_or_insert_with(|| failure.clone());
        }
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut state = self.state.lock();
            let outcome = state.failure.take().map_or(Ok(()), Err);
            if let Some(done) = state.done.take() {
                // A push whose sender has gone away waits for nothing.
                let _ = done.send(outcome);
            }
        }
    }
}

/// The pushes with a share in one batch.
#[derive(Debug, Default)]
pub struct Shares {
    tickets: Vec<Arc<Ticket>>,
}

impl Shares {
    /// Adds a push; the one added last may be added again.
    pub fn add(&mut self, ticket: &Arc<Ticket>) {
        if !self.tickets.last().is_some_and(|last| Arc::ptr_eq(last, ticket)) {
            ticket.pending.fetch_add(1, Ordering::AcqRel);
            self.tickets.push(Arc::clone(ticket));
        }
    }

    /// The batch was acknowledged, or not.
    pub fn settle(mut self, outcome: Result<(), Failure>) {
        let failure = outcome.err();
        for ticket in self.tickets.drain(..) {
            ticket.settle(failure.as_ref());
        }
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for ticket in self.tickets.drain(..) {
            ticket.settle(Some(&Failure::QueueFull));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_push_is_settled_by_its_last_batch() {
        let (ticket, mut receipt) = Ticket::new();
        let (mut first, mut second) = (Shares::default(), Shares::default());
        first.add(&ticket);
        first.add(&ticket);
        second.add(&ticket);
        ticket.close();
        first.settle(Ok(()));
        assert!(futures::poll!(std::pin::pin!(receipt.wait())).is_pending());
        second.settle(Ok(()));
        assert_eq!(receipt.wait().await, Ok(()));
    }

    #[tokio::test]
    async fn the_first_failure_is_the_answer() {
        let (ticket, mut receipt) = Ticket::new();
        let (mut first, mut second, mut third) = (Shares::default(), Shares::default(), Shares::default());
        first.add(&ticket);
        second.add(&ticket);
        third.add(&ticket);
        ticket.close();
        first.settle(Ok(()));
        drop(second);
        third.settle(Err(Failure::Delivery("timed out".into())));
        assert_eq!(receipt.wait().await, Err(Failure::QueueFull));
    }

    #[tokio::test]
    async fn a_push_without_a_batch_is_settled_at_once() {
        let (ticket, mut receipt) = Ticket::new();
        ticket.close();
        assert_eq!(receipt.wait().await, Ok(()));
        let (ticket, mut receipt) = Ticket::new();
        drop(ticket);
        assert_eq!(receipt.wait().await, Err(Failure::Dropped));
    }
}
