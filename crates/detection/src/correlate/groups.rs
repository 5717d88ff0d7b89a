//! The groups of a correlator and how many there may be.

use ahash::AHashMap;

use super::episode::Episode;
use super::key;
use super::slots::Slots;
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

/// Bytes that a group takes beside what its windows hold: its key, its place in the table.
const GROUP_BYTES: usize = 160;

/// One group.
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
    bytes: usize,
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

#[derive(Debug)]
struct Org {
    name: Box<str>,
    groups: usize,
    /// When groups of it last made way, by the log's time, milliseconds.
    cut_ms: Option<i64>,
}

/// All groups, by key.
pub(super) struct Groups {
    groups: AHashMap<Box<[u8]>, Box<Group>>,
    orgs: Vec<Org>,
    numbers: AHashMap<Box<str>, u32>,
    bytes: usize,
    pub limits: Limits,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self {
            groups: AHashMap::new(),
            orgs: Vec::new(),
            numbers: AHashMap::new(),
            bytes: 0,
            limits: Limits::NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Memory of all of them, bytes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.groups.len().saturating_mul(GROUP_BYTES))
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

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Group> {
        self.groups.get_mut(key).map(Box::as_mut)
    }

    /// Makes room for a group, and the group. `keep_ms` is how long it may have been there before. Returns how many others
    /// made way.
    pub(super) fn add(&mut self, key: &[u8], state: State, now_ms: i64, keep_ms: i64) -> usize {
        let Some((_, org)) = key::owner(key) else { return 0 };
        let made_way = self.make_room(org, now_ms);
        let Some(org) = self.orgs.get_mut(org as usize) else { return made_way };
        org.groups += 1;
        let cut = org.cut_ms.is_some_and(|cut_ms| now_ms.saturating_sub(cut_ms) <= keep_ms);
        let group = Group { state, queued: false, cut, touched: now_ms, scheduled: i64::MAX, bytes: 0 };
        self.groups.insert(key.into(), Box::new(group));
        made_way
    }

    /// Counts the memory of a group anew.
    pub(super) fn weigh(&mut self, key: &[u8]) {
        if let Some(group) = self.groups.get_mut(key) {
            let bytes = group.state.bytes();
            self.bytes = self.bytes.saturating_sub(group.bytes).saturating_add(bytes);
            group.bytes = bytes;
        }
    }

    fn make_room(&mut self, org: u32, now_ms: i64) -> usize {
        let of_org = self.orgs.get(org as usize).map_or(0, |org| org.groups);
        let mut made_way = 0;
        if of_org >= self.limits.keys_per_org {
            made_way += self.evict(Some(org), of_org, self.limits.keys_per_org, now_ms);
        }
        if self.groups.len() >= self.limits.keys {
            made_way += self.evict(None, self.groups.len(), self.limits.keys, now_ms);
        }
        if self.bytes() >= self.limits.bytes {
            made_way += self.evict(None, self.groups.len(), self.groups.len(), now_ms);
        }
        made_way
    }

    /// Drops the oldest groups, of `there` so many that `most` and a few more remain free.
    fn evict(&mut self, org: Option<u32>, there: usize, most: usize, now_ms: i64) -> usize {
        let wanted = there.saturating_sub(most).saturating_add(most / SPARE).saturating_add(1);
        // What has changes to publish stays until they are.
        let candidates = self.groups.iter().filter(|(key, group)| {
            !group.queued && org.is_none_or(|org| key::owner(key).is_some_and(|(_, of)| of == org))
        });
        let mut ages: Vec<(i64, Box<[u8]>)> =
            candidates.map(|(key, group)| (group.touched, key.clone())).collect();
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
        if let Some(group) = self.groups.remove(key) {
            self.bytes = self.bytes.saturating_sub(group.bytes);
            if let Some(org) = key::owner(key).and_then(|(_, org)| self.orgs.get_mut(org as usize)) {
                org.groups = org.groups.saturating_sub(1);
            }
        }
    }

    /// Keeps the groups for which `keep` says so, given the number of their slot.
    pub(super) fn retain(&mut self, slots: &Slots, mut keep: impl FnMut(u32, &Slots, &mut Group) -> bool) {
        let (bytes, orgs) = (&mut self.bytes, &mut self.orgs);
        self.groups.retain(|key, group| {
            let owner = key::owner(key);
            let kept = owner.is_some_and(|(slot, _)| keep(slot, slots, group));
            if !kept {
                *bytes = bytes.saturating_sub(group.bytes);
                if let Some(org) = owner.and_then(|(_, org)| orgs.get_mut(org as usize)) {
                    org.groups = org.groups.saturating_sub(1);
                }
            }
            kept
        });
    }
}
