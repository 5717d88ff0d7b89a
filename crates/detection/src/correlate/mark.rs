//! Events as the windows know them.

use std::sync::Arc;

use schemas::{Pair, Stream};

/// An event's place in its stream: its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub stream: Stream,
    pub partition: i32,
    pub offset: i64,
    pub index: i32,
}

/// One event that a rule matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Event time, microseconds.
    pub time: i64,
    pub place: Place,
    /// What tells it apart where a correlation counts distinct things: the hash of a value, or which rule matched. 0 where
    /// it counts events.
    pub value: u64,
    /// Hash of what it shares with a client's retry of the same event; 0 for none.
    pub uid: u64,
    /// Occurrences it stands for.
    pub weight: i32,
}

impl Mark {
    /// Whether both say the same of the same event.
    pub(super) fn same_event(&self, other: &Mark) -> bool {
        self.value == other.value && (self.place == other.place || (self.uid != 0 && self.uid == other.uid))
    }

    /// What makes it a mark of its own.
    pub(super) fn identity(&self) -> (Place, u64) {
        (self.place, self.value)
    }
}

/// What an event says beside its mark: flags and entities, in one piece of memory, which the events of a group that say the
/// same share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Details(Arc<[u8]>);

impl Details {
    pub(super) fn of(entities: &[Pair<'_>], flags: i32) -> Self {
        Self::new(entities.iter().map(|pair| (pair.name.as_ref(), pair.value.as_ref())), flags)
    }

    pub(super) fn new<'e>(entities: impl Iterator<Item = (&'e str, &'e str)>, flags: i32) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&flags.to_le_bytes());
        for (name, value) in entities {
            for text in [name, value] {
                bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        Self(bytes.into())
    }

    /// See [`schemas::flags`].
    pub(super) fn flags(&self) -> i32 {
        self.0.first_chunk::<4>().map_or(0, |bytes| i32::from_le_bytes(*bytes))
    }

    /// Names and values of users, hosts, addresses.
    pub(super) fn entities(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.0.get(4..).unwrap_or_default();
        let mut text = move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (text, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            rest = after;
            std::str::from_utf8(text).ok()
        };
        std::iter::from_fn(move || Some((text()?, text()?)))
    }
}

/// An event that is kept whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub mark: Mark,
    pub details: Details,
}
