//! The groups of a correlator and how many there may be.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use ahash::{AHashMap, AHashSet};

use super::episode::Episode;
use super::key;
use super::pack::{self, Rest};
use super::track::Track;

/// How much window state a correlator may hold. What is over makes way by age: the groups whose last signal lies longest back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Groups of all orgs.
    pub keys: usize,
    /// Groups of one org.
    pub keys_per_org: usize,
    /// Memory of all windows, bytes, about.
    pub bytes: usize,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { keys: usize::MAX, keys_per_org: usize::MAX, bytes: usize::MAX };
}

/// Of the groups that are over a limit, one more for each so many that there may be makes way: looking for the oldest
/// costs a look at all.
const SPARE: usize = 16;

/// Bytes that a group takes beside what it holds: its place in the table, what the allocator keeps of its own.
const GROUP_BYTES: usize = 64;

/// One group, unpacked.
pub(super) struct Group {
    pub state: State,
    /// Has changes to publish.
    pub queued: bool,
    /// Others of its org made way for want of memory not long before it came: it may have been there itself.
    pub cut: bool,
    /// When its last signal was appended to the log, milliseconds.
    pub touched: i64,
    /// When the watermark decides about an episode, as far as that is noted; `i64::MAX` if it is not.
    pub scheduled: i64,
}

pub(super) enum State {
    Windows(Track),
    /// Alerts of a single rule, by bucket of event time, ascending.
    Alerts(Vec<(i64, Episode)>),
}

impl State {
    fn bytes(&self) -> usize {
        match self {
            Self::Windows(track) => track.bytes(),
            Self::Alerts(buckets) => buckets.iter().map(|(_, episode)| episode.bytes()).sum(),
        }
    }
}

/// A group as it is kept. There may be a million at rest, each in one piece of memory: its key and what it holds.
enum Node {
    Resting(Box<[u8]>),
    Active(Box<Active>),
}

struct Active {
    key: Box<[u8]>,
    group: Group,
    bytes: usize,
}

/// What deciding about a group's stay needs.
pub(super) struct Glance {
    pub slot: u32,
    pub queued: bool,
    /// Where the first of its episodes begins that wait for the watermark, if there are such.
    pub undecided: Option<i64>,
    pub touched: i64,
}

impl Node {
    fn rest(key: &[u8], cut: bool, touched: i64, rest: &Rest) -> Self {
        let mut bytes = Vec::with_capacity(16 + key.len());
        pack::text(&mut bytes, key);
        bytes.push(u8::from(cut));
        pack::signed(&mut bytes, touched);
        pack::rest(&mut bytes, rest);
        Self::Resting(bytes.into_boxed_slice())
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Resting(bytes) => pack::Reader::new(bytes).bytes().unwrap_or_default(),
            Self::Active(active) => &active.key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Resting(bytes) => bytes.len(),
            Self::Active(active) => size_of::<Active>() + active.bytes,
        }
    }

    fn is_queued(&self) -> bool {
        matches!(self, Self::Active(active) if active.group.queued)
    }

    fn touched(&self) -> i64 {
        match self {
            Self::Resting(bytes) => {
                let mut reader = pack::Reader::new(bytes);
                let touched = reader.bytes().and_then(|_| reader.byte()).and_then(|_| reader.signed());
                touched.unwrap_or(i64::MIN)
            }
            Self::Active(active) => active.group.touched,
        }
    }

    fn glance(&self) -> Option<Glance> {
        let (slot, _) = key::owner(self.key())?;
        let undecided = match self {
            Self::Active(active) if active.group.scheduled < i64::MAX => match &active.group.state {
                State::Windows(track) => track.undecided(),
                State::Alerts(_) => None,
            },
            _ => None,
        };
        Some(Glance { slot, queued: self.is_queued(), undecided, touched: self.touched() })
    }

    /// The same as an unpacked group.
    fn activate(self) -> Box<Active> {
        match self {
            Self::Active(active) => active,
            Self::Resting(bytes) => {
                let mut reader = pack::Reader::new(&bytes);
                let key = reader.bytes().unwrap_or_default().into();
                let cut = reader.byte().unwrap_or_default() != 0;
                let touched = reader.signed().unwrap_or_default();
                let state = State::Windows(Track::of(reader.unpack()));
                let group = Group { state, queued: false, cut, touched, scheduled: i64::MAX };
                Box::new(Active { key, group, bytes: 0 })
            }
        }
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Node {}

impl Borrow<[u8]> for Node {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

#[derive(Debug)]
struct Org {
    name: Box<str>,
    groups: usize,
    /// When groups of it last made way, by the log's time, milliseconds.
    cut_ms: Option<i64>,
}

/// All groups, by key.
pub(super) struct Groups {
    nodes: AHashSet<Node>,
    orgs: Vec<Org>,
    numbers: AHashMap<Box<str>, u32>,
    bytes: usize,
    pub limits: Limits,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self {
            nodes: AHashSet::new(),
            orgs: Vec::new(),
            numbers: AHashMap::new(),
            bytes: 0,
            limits: Limits::NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Memory of all of them, bytes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.nodes.len().saturating_mul(GROUP_BYTES))
    }

    /// The number of an org.
    pub(super) fn org(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.orgs.len()).unwrap_or(u32::MAX);
        self.orgs.push(Org { name: name.into(), groups: 0, cut_ms: None });
        self.numbers.insert(name.into(), number);
        number
    }

    pub(super) fn org_name(&self, number: u32) -> Option<&str> {
        self.orgs.get(usize::try_from(number).ok()?).map(|org| org.name.as_ref())
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.nodes.contains(key)
    }

    /// Lets `change` work on a group; none if it is not there.
    pub(super) fn with<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Group) -> R) -> Option<R> {
        let node = self.nodes.take(key)?;
        self.bytes = self.bytes.saturating_sub(node.bytes());
        let mut active = node.activate();
        let result = change(&mut active.group);
        self.put(active);
        Some(result)
    }

    fn put(&mut self, mut active: Box<Active>) {
        let group = &mut active.group;
        let rest = match &mut group.state {
            State::Windows(track) if !group.queued && group.scheduled == i64::MAX => track.rest(),
            _ => None,
        };
        let node = match rest {
            Some(rest) => Node::rest(&active.key, group.cut, group.touched, &rest),
            None => {
                active.bytes = active.key.len() + active.group.state.bytes();
                Node::Active(active)
            }
        };
        self.bytes = self.bytes.saturating_add(node.bytes());
        self.nodes.insert(node);
    }

    /// Makes room for a group, and the group. `keep_ms` is how long it may have been there before. Returns how many others
    /// made way.
    pub(super) fn add(&mut self, key: &[u8], state: State, now_ms: i64, keep_ms: i64) -> usize {
        let Some((_, org)) = key::owner(key) else { return 0 };
        let made_way = self.make_room(org, now_ms);
        let Some(org) = self.orgs.get_mut(org as usize) else { return made_way };
        org.groups += 1;
        let cut = org.cut_ms.is_some_and(|cut_ms| now_ms.saturating_sub(cut_ms) <= keep_ms);
        let group = Group { state, queued: false, cut, touched: now_ms, scheduled: i64::MAX };
        self.put(Box::new(Active { key: key.into(), group, bytes: 0 }));
        made_way
    }

    fn make_room(&mut self, org: u32, now_ms: i64) -> usize {
        let of_org = self.orgs.get(org as usize).map_or(0, |org| org.groups);
        let mut made_way = 0;
        if of_org >= self.limits.keys_per_org {
            made_way += self.evict(Some(org), of_org, self.limits.keys_per_org, now_ms);
        }
        if self.nodes.len() >= self.limits.keys {
            made_way += self.evict(None, self.nodes.len(), self.limits.keys, now_ms);
        }
        if self.bytes() >= self.limits.bytes {
            made_way += self.evict(None, self.nodes.len(), self.nodes.len(), now_ms);
        }
        made_way
    }

    /// Drops the oldest groups, of `there` so many that `most` and a few more remain free.
    fn evict(&mut self, org: Option<u32>, there: usize, most: usize, now_ms: i64) -> usize {
        let wanted = there.saturating_sub(most).saturating_add(most / SPARE).saturating_add(1);
        // What has changes to publish stays until they are.
        let candidates = self.nodes.iter().filter(|node| {
            !node.is_queued() && org.is_none_or(|org| key::owner(node.key()).is_some_and(|(_, of)| of == org))
        });
        let mut ages: Vec<(i64, Box<[u8]>)> =
            candidates.map(|node| (node.touched(), Box::from(node.key()))).collect();
        if ages.len() > wanted {
            ages.select_nth_unstable(wanted);
            ages.truncate(wanted);
        }
        for (_, key) in &ages {
            self.remove(key);
            if let Some(org) = key::owner(key).and_then(|(_, org)| self.orgs.get_mut(org as usize)) {
                org.cut_ms = Some(now_ms);
            }
        }
        ages.len()
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(node) = self.nodes.take(key) {
            self.bytes = self.bytes.saturating_sub(node.bytes());
            if let Some(org) = key::owner(key).and_then(|(_, org)| self.orgs.get_mut(org as usize)) {
                org.groups = org.groups.saturating_sub(1);
            }
        }
    }

    /// Keeps the groups for which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Glance) -> bool) {
        let (bytes, orgs) = (&mut self.bytes, &mut self.orgs);
        self.nodes.retain(|node| {
            let kept = node.glance().is_some_and(|glance| keep(&glance));
            if !kept {
                *bytes = bytes.saturating_sub(node.bytes());
                let owner = key::owner(node.key());
                if let Some(org) = owner.and_then(|(_, org)| orgs.get_mut(org as usize)) {
                    org.groups = org.groups.saturating_sub(1);
                }
            }
            kept
        });
    }
}
