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

/// Where a batch came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Partition of the raw topic.
    pub partition: i32,
    /// Offset of the raw record.
    pub offset: i64,
}

/// Records of a push in one raw record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The raw record.
    pub at: At,
    /// Index of the first of them there.
    pub first: u32,
    /// How many they are.
    pub count: u32,
}

/// A push under way. It is settled when every batch with a share of it is, and the push itself has been
/// [closed](Self::close).
#[derive(Debug)]
pub struct Ticket {
    /// Batches not settled, and one for the push until it is closed.
    pending: AtomicUsize,
    traced: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failure: Option<Failure>,
    /// Where its records are, when somebody wants to know.
    placed: Option<Vec<Placed>>,
    done: Option<oneshot::Sender<Result<Vec<Placed>, Failure>>>,
}

/// The end of a push: all of it acknowledged, or the first failure.
#[derive(Debug)]
pub struct Settlement(oneshot::Receiver<Result<Vec<Placed>, Failure>>);

impl Settlement {
    /// Waits until the push is settled: where its records are, if that was [traced](Ticket::traced). Cancel-safe.
    ///
    /// # Errors
    /// The first failure of a batch with a share of it.
    pub async fn wait(&mut self) -> Result<Vec<Placed>, Failure> {
        (&mut self.0).await.unwrap_or(Err(Failure::Dropped))
    }
}

impl Ticket {
    /// A push that has no share in a batch yet.
    pub fn new() -> (Arc<Self>, Settlement) {
        Self::with(None)
    }

    /// The same, and its end says where its records are.
    pub fn traced() -> (Arc<Self>, Settlement) {
        Self::with(Some(Vec::new()))
    }

    fn with(placed: Option<Vec<Placed>>) -> (Arc<Self>, Settlement) {
        let (done, settlement) = oneshot::channel();
        let traced = placed.is_some();
        let state = Mutex::new(State { failure: None, placed, done: Some(done) });
        (Arc::new(Self { pending: AtomicUsize::new(1), traced, state }), Settlement(settlement))
    }

    /// Says that the push will have no more shares.
    pub fn close(&self) {
        self.settle(None);
    }

    /// Says that a part of the push could not be added to any batch.
    pub fn fail(&self, failure: Failure) {
        self.state.lock().failure.get_or_insert(failure);
    }

    fn place(&self, placed: Placed) {
        if let Some(all) = &mut self.state.lock().placed {
            all.push(placed);
        }
    }

    fn settle(&self, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            self.state.lock().failure.get_or_insert_with(|| failure.clone());
        }
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut state = self.state.lock();
            let placed = state.placed.take().unwrap_or_default();
            let outcome = state.failure.take().map_or(Ok(placed), Err);
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
    shares: Vec<Share>,
}

#[derive(Debug)]
struct Share {
    ticket: Arc<Ticket>,
    first: u32,
    count: u32,
}

impl Shares {
    /// Adds the last `count` records of a batch that has `first` before them; the push added last may be added again.
    pub fn add(&mut self, ticket: &Arc<Ticket>, first: usize, count: usize) {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        match self.shares.last_mut() {
            Some(last) if Arc::ptr_eq(&last.ticket, ticket) => {
                last.count = last.count.saturating_add(number(count));
            }
            _ => {
                ticket.pending.fetch_add(1, Ordering::AcqRel);
                let share = Share { ticket: Arc::clone(ticket), first: number(first), count: number(count) };
                self.shares.push(share);
            }
        }
    }

    /// The batch was acknowledged, or not.
    pub fn settle(mut self, outcome: Result<At, Failure>) {
        for Share { ticket, first, count } in self.shares.drain(..) {
            if let Ok(at) = outcome
                && ticket.traced
            {
                ticket.place(Placed { at, first, count });
            }
            ticket.settle(outcome.as_ref().err());
        }
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for share in self.shares.drain(..) {
            share.ticket.settle(Some(&Failure::QueueFull));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: At = At { partition: 3, offset: 7 };

    #[tokio::test]
    async fn a_push_is_settled_by_its_last_batch() {
        let (ticket, mut settlement) = Ticket::new();
        let (mut first, mut second) = (Shares::default(), Shares::default());
        first.add(&ticket, 0, 1);
        first.add(&ticket, 0, 1);
        second.add(&ticket, 0, 1);
        ticket.close();
        first.settle(Ok(AT));
        assert!(futures::poll!(std::pin::pin!(settlement.wait())).is_pending());
        second.settle(Ok(AT));
        assert_eq!(settlement.wait().await, Ok(vec![]));
    }

    #[tokio::test]
    async fn the_first_failure_is_the_answer() {
        let (ticket, mut settlement) = Ticket::new();
        let (mut first, mut second, mut third) = (Shares::default(), Shares::default(), Shares::default());
        first.add(&ticket, 0, 1);
        second.add(&ticket, 0, 1);
        third.add(&ticket, 0, 1);
        ticket.close();
        first.settle(Ok(AT));
        drop(second);
        third.settle(Err(Failure::Delivery("timed out".into())));
        assert_eq!(settlement.wait().await, Err(Failure::QueueFull));
    }

    #[tokio::test]
    async fn a_push_without_a_batch_is_settled_at_once() {
        let (ticket, mut settlement) = Ticket::new();
        ticket.close();
        assert_eq!(settlement.wait().await, Ok(vec![]));
        let (ticket, mut settlement) = Ticket::new();
        drop(ticket);
        assert_eq!(settlement.wait().await, Err(Failure::Dropped));
    }

    #[tokio::test]
    async fn a_traced_push_says_where_its_records_are() {
        let (ticket, mut settlement) = Ticket::traced();
        let (other, _) = Ticket::new();
        let (mut first, mut second) = (Shares::default(), Shares::default());
        first.add(&other, 0, 5);
        first.add(&ticket, 5, 2);
        first.add(&ticket, 7, 1);
        second.add(&ticket, 0, 4);
        ticket.close();
        let later = At { offset: 8, ..AT };
        second.settle(Ok(later));
        first.settle(Ok(AT));
        let placed = |at, first, count| Placed { at, first, count };
        assert_eq!(settlement.wait().await, Ok(vec![placed(later, 0, 4), placed(AT, 5, 3)]));
    }
}
