//! A queue between a thread that may block and a task that must not, bounded by weight.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// First in, first out; one or more writers that block or insist, readers that await.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    limit: usize,
    room: Condvar,
    filled: Notify,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    /// No more will be written.
    finished: bool,
    /// No more will be read.
    abandoned: bool,
}

/// An item was not taken; here it is.
#[derive(Debug)]
pub(crate) enum Refused<T> {
    /// There was no room in time.
    Full(T),
    /// Nobody reads any more.
    Abandoned,
}

impl<T> Queue<T> {
    /// Room for items of this weight together. One heavier item is taken when the queue is empty.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { items: VecDeque::new(), weight: 0, finished: false, abandoned: false };
        Self { state: Mutex::new(state), limit, room: Condvar::new(), filled: Notify::new() }
    }

    /// Waits for room for at most so long. Blocks: for threads.
    pub(crate) fn push(&self, item: T, weight: usize, patience: Duration) -> Result<(), Refused<T>> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while !state.abandoned && !state.items.is_empty() && state.weight.saturating_add(weight) > self.limit
        {
            if self.room.wait_until(&mut state, deadline).timed_out() {
                return Err(Refused::Full(item));
            }
        }
        self.append(state, item, weight).map_err(|_| Refused::Abandoned)
    }

    /// Takes the item whatever the weight; false when nobody reads any more.
    pub(crate) fn insist(&self, item: T, weight: usize) -> bool {
        self.append(self.state.lock(), item, weight).is_ok()
    }

    fn append(
        &self,
        mut state: parking_lot::MutexGuard<'_, State<T>>,
        item: T,
        weight: usize,
    ) -> Result<(), T> {
        if state.abandoned || state.finished {
            return Err(item);
        }
        state.weight = state.weight.saturating_add(weight);
        state.items.push_back((item, weight));
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The next item; `None` once the queue is finished and empty. May be dropped at any await without losing one.
    pub(crate) async fn pop(&self) -> Option<T> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state.lock();
                if let Some((item, weight)) = state.items.pop_front() {
                    state.weight = state.weight.saturating_sub(weight);
                    let more = !state.items.is_empty();
                    drop(state);
                    self.room.notify_all();
                    if more {
                        self.filled.notify_one();
                    }
                    return Some(item);
                }
                if state.finished || state.abandoned {
                    self.filled.notify_one();
                    return None;
                }
            }
            filled.await;
        }
    }

    /// Nothing will be written any more; what is in it can still be read.
    pub(crate) fn finish(&self) {
        self.state.lock().finished = true;
        self.filled.notify_one();
    }

    /// Nothing will be read any more: drops what is in it and lets writers go.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.weight = 0;
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.room.notify_all();
        self.filled.notify_one();
        drop(items);
    }

    /// Weight of what is in it.
    pub(crate) fn weight(&self) -> usize {
        self.state.lock().weight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let queue = Queue::new(10);
        assert!(queue.push('a', 6, Duration::ZERO).is_ok());
        assert!(matches!(queue.push('b', 5, Duration::ZERO), Err(Refused::Full('b'))));
        assert!(queue.push('c', 4, Duration::ZERO).is_ok());
        assert!(queue.insist('d', 100));
        assert_eq!(queue.weight(), 110);
    }

    #[test]
    fn an_item_over_the_limit_is_taken_by_an_empty_queue() {
        let queue = Queue::new(10);
        assert!(queue.push('a', 11, Duration::ZERO).is_ok());
        assert!(queue.push('b', 1, Duration::ZERO).is_err());
    }

    #[tokio::test]
    async fn items_come_out_in_order_and_finish_ends_them() {
        let queue = Arc::new(Queue::new(3));
        let writer = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                for number in 0..1_000 {
                    queue.push(number, 1, LONG).unwrap();
                }
                queue.finish();
            })
        };
        for number in 0..1_000 {
            assert_eq!(queue.pop().await, Some(number));
        }
        assert_eq!(queue.pop().await, None);
        assert_eq!(queue.pop().await, None);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn a_dropped_pop_loses_nothing() {
        let queue = Queue::new(10);
        tokio::select! {
            biased;
            _ = queue.pop() => unreachable!(),
            () = std::future::ready(()) => {}
        }
        assert!(queue.insist(1, 1));
        assert!(queue.insist(2, 1));
        assert_eq!((queue.pop().await, queue.pop().await), (Some(1), Some(2)));
    }

    #[test]
    fn abandoning_frees_a_blocked_writer() {
        let queue = Arc::new(Queue::new(1));
        assert!(queue.insist((), 1));
        let writer = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.push((), 1, LONG))
        };
        queue.abandon();
        assert!(matches!(writer.join().unwrap(), Err(Refused::Abandoned)));
    }
}
