//! The few rules of many that an event may match, found by one look at each of its fields.
//!
//! Every rule is entered under clues of which an event that it matches has at least one ([`Need`]). Of the rules of one log
//! source the clues about a field make one table: an automaton for the texts that a value may contain, and maps for what it
//! may be. A look-up costs by the length of the value, not by the number of rules.

use std::cell::Cell;
use std::fmt::Write;

use ahash::AHashMap;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use foldhash::HashMap;

use crate::need::{Clue, ClueSet, Need, Test, fold};
use crate::value::Value;
use crate::view::{FieldId, View};

/// A rule that a clue speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    rule: u32,
    /// The bit of the set of clues that it is one of.
    set: u8,
    /// The bits of all sets of the rule: it may match when each has shown a clue.
    sets: u8,
}

type Entries = Vec<Entry>;

/// Sets of clues that are looked for, for one rule.
const MAX_SETS: usize = 3;

/// The clues of the rules of one log source.
#[derive(Debug, Default)]
pub(crate) struct Sieve {
    /// Rules that need nothing that could be looked for.
    always: Entries,
    fields: Vec<(FieldId, Table)>,
    /// What the message and the strings of the attributes may contain.
    strings: Vec<Strings>,
}

/// The clues about one field.
#[derive(Debug, Default)]
struct Table {
    equal: HashMap<Box<str>, Entries>,
    /// Lengths of those, as bits; the last one is for all that are longer.
    lengths: u64,
    numbers: HashMap<i64, Entries>,
    texts: Vec<Texts>,
    not_ascii: Entries,
}

#[derive(Debug)]
struct Texts {
    automaton: AhoCorasick,
    /// By pattern.
    rules: Vec<Placed>,
}

/// Texts that stand in few events, in whichever string.
#[derive(Debug)]
struct Strings {
    /// Whether any of them is there, at several times the speed.
    any: AhoCorasick,
    texts: Texts,
}

/// Rules by where in the value a text has to stand.
#[derive(Debug, Default)]
struct Placed {
    anywhere: Entries,
    at_start: Entries,
    at_end: Entries,
}

/// Working memory of look-ups, one for each thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    folded: String,
    /// By rule.
    seen: Vec<Seen>,
    event: u32,
    found: Vec<u32>,
    /// Message and attributes, folded, of that event.
    strings: String,
    strings_of: u32,
    /// They may have letters as escapes, so that nothing can be told from the text.
    escaped: bool,
}

/// The sets of a rule that have shown a clue, and for which event.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    event: u32,
    sets: u8,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// The thread's, for an event that has found nothing yet, among so many rules.
    pub(crate) fn take(rules: usize) -> Box<Self> {
        let mut scratch = SCRATCH.take().unwrap_or_default();
        scratch.found.clear();
        if scratch.seen.len() < rules {
            scratch.seen.resize(rules, Seen::default());
        }
        scratch.event = scratch.event.wrapping_add(1);
        if scratch.event == 0 {
            scratch.seen.fill(Seen::default());
            scratch.strings_of = 0;
            scratch.event = 1;
        }
        scratch
    }

    pub(crate) fn give_back(self: Box<Self>) {
        SCRATCH.set(Some(self));
    }

    /// What was found, ascending.
    pub(crate) fn sort(&mut self) {
        self.found.sort_unstable();
    }

    pub(crate) fn found(&self, at: usize) -> Option<u32> {
        self.found.get(at).copied()
    }

    fn fold_strings(&mut self, event: &View<'_>) {
        let (message, attributes) = event.strings();
        let attributes = attributes.unwrap_or_default();
        self.strings_of = self.event;
        self.escaped = memchr::memmem::find(attributes.as_bytes(), br"\u").is_some();
        self.strings.clear();
        fold(message.unwrap_or_default(), &mut self.strings);
        self.strings.push('\n');
        fold(attributes, &mut self.strings);
    }

    fn add(&mut self, entries: &[Entry]) {
        for entry in entries {
            let Some(seen) = self.seen.get_mut(entry.rule as usize) else { continue };
            let before = if seen.event == self.event { seen.sets } else { 0 };
            let sets = before | entry.set;
            *seen = Seen { event: self.event, sets };
            if sets == entry.sets && before != sets {
                self.found.push(entry.rule);
            }
        }
    }
}

/// Texts of an automaton: making one takes time by the square of their number.
const MAX_TEXTS: usize = 8_192;

/// Bytes of texts up to which a table has the faster of two automata, some 200 bytes of memory for each byte of text.
const FAST_TEXT_BYTES: usize = 64 * 1024;

impl Sieve {
    /// A sieve for these rules, each with its need.
    pub(crate) fn new(rules: &[(u32, Need)]) -> Self {
        let mut popular: AHashMap<&Clue, u64> = AHashMap::new();
        for (_, need) in rules {
            need.each_clue(&mut |clue| *popular.entry(clue).or_default() += 1);
        }
        // What many rules ask for is common in what they are about, and would find many of them at once.
        let cost = |clue: &Clue| popular.get(clue).copied().unwrap_or(1).saturating_mul(commonness(clue));
        let mut always = Vec::new();
        let mut builders: AHashMap<Option<FieldId>, Builder<'_>> = AHashMap::new();
        for (rule, need) in rules {
            let rule = *rule;
            let mut sets = need.sets(&cost, MAX_SETS);
            // Beside the first, only what is worth it.
            let mut first = true;
            sets.retain(|set| std::mem::take(&mut first) || set.is_selective());
            let bits = (1u8 << sets.len()) - 1;
            if sets.is_empty() {
                always.push(Entry { rule, set: 1, sets: 1 });
            }
            for (at, set) in sets.into_iter().enumerate() {
                for clue in set.clues {
                    let entry = Entry { rule, set: 1 << at, sets: bits };
                    builders.entry(clue.field).or_default().add(&clue.test, entry);
                }
            }
        }
        let strings =
            builders.remove(&None).map(|builder| builder.build_strings(&mut always)).unwrap_or_default();
        let fields =
            builders.into_iter().filter_map(|(field, builder)| Some((field?, builder.build(&mut always))));
        let mut sieve = Self { fields: fields.collect(), strings, always };
        sieve.fields.sort_by_key(|(field, _)| *field);
        sieve
    }

    /// Adds the rules that `event` may match to what `scratch` has found.
    pub(crate) fn pass(&self, event: &View<'_>, scratch: &mut Scratch) {
        scratch.add(&self.always);
        for (field, table) in &self.fields {
            if let Some(value) = event.get(*field) {
                table.look_up(&value, scratch);
            }
        }
        for strings in &self.strings {
            strings.look_up(event, scratch);
        }
    }
}

impl Strings {
    fn look_up(&self, event: &View<'_>, scratch: &mut Scratch) {
        if scratch.strings_of != scratch.event {
            scratch.fold_strings(event);
        }
        if scratch.escaped {
            return self.texts.rules.iter().for_each(|placed| scratch.add(&placed.anywhere));
        }
        let strings = std::mem::take(&mut scratch.strings);
        if self.any.is_match(&strings) {
            self.texts.look_up(&strings, scratch);
        }
        scratch.strings = strings;
    }
}

/// Clues of a set beside the first, at most.
const MAX_CLUES: usize = 256;

impl ClueSet<'_> {
    fn is_selective(&self) -> bool {
        self.clues.len() <= MAX_CLUES && self.clues.iter().all(|clue| commonness(clue) < SHORT)
    }
}

/// Of a text so short that it is in most values.
const SHORT: u64 = 128;

/// How likely events are to have the clue, by its looks.
fn commonness(clue: &Clue) -> u64 {
    match &clue.test {
        Test::Equals(_) => 2,
        Test::NotAscii => 4,
        Test::Number(_) => 8,
        Test::Contains(text) | Test::StartsWith(text) | Test::EndsWith(text) => match text.len() {
            0..=2 => SHORT,
            3 => 64,
            4 => 24,
            5 => 12,
            6 => 6,
            7 => 3,
            _ => 1,
        },
    }
}

fn length_bit(text: &str) -> u64 {
    1 << text.len().min(63)
}

#[derive(Default)]
struct Builder<'n> {
    table: Table,
    texts: Vec<&'n str>,
    rules: Vec<Placed>,
    numbers: AHashMap<&'n str, usize>,
}

impl<'n> Builder<'n> {
    fn add(&mut self, test: &'n Test, entry: Entry) {
        let rules = match test {
            Test::Equals(text) => {
                self.table.lengths |= length_bit(text);
                self.table.equal.entry(text.clone()).or_default()
            }
            Test::NotAscii => &mut self.table.not_ascii,
            Test::Number(number) => self.table.numbers.entry(*number).or_default(),
            Test::Contains(text) => &mut self.placed(text).anywhere,
            Test::StartsWith(text) => &mut self.placed(text).at_start,
            Test::EndsWith(text) => &mut self.placed(text).at_end,
        };
        if rules.last() != Some(&entry) {
            rules.push(entry);
        }
    }

    fn placed(&mut self, text: &'n str) -> &mut Placed {
        let index = *self.numbers.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.rules.push(Placed::default());
            self.rules.len() - 1
        });
        // The index is of an entry of that vector.
        #[allow(clippy::indexing_slicing, reason = "the index was made above")]
        &mut self.rules[index]
    }

    /// The texts alone, to be looked for in strings.
    fn build_strings(self, always: &mut Entries) -> Vec<Strings> {
        let mut strings = Vec::new();
        for (texts, placed) in self.chunks() {
            let any = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&texts);
            match (any, Texts::new(&texts, placed)) {
                (Ok(any), Ok(texts)) => strings.push(Strings { any, texts }),
                (Err(_), Ok(texts)) => always.extend(entries(texts.rules)),
                (_, Err(placed)) => always.extend(entries(placed)),
            }
        }
        strings
    }

    /// The table. Rules whose texts make no automaton go to `always`.
    fn build(mut self, always: &mut Entries) -> Table {
        let mut table = std::mem::take(&mut self.table);
        for (texts, placed) in self.chunks() {
            match Texts::new(&texts, placed) {
                Ok(texts) => table.texts.push(texts),
                Err(placed) => always.extend(entries(placed)),
            }
        }
        table
    }

    fn chunks(self) -> Vec<(Vec<&'n str>, Vec<Placed>)> {
        let mut placed = self.rules.into_iter();
        let chunk = |texts: &[&'n str]| (texts.to_vec(), placed.by_ref().take(texts.len()).collect());
        self.texts.chunks(MAX_TEXTS).map(chunk).collect()
    }
}

fn entries(placed: Vec<Placed>) -> impl Iterator<Item = Entry> {
    placed.into_iter().flat_map(|placed| [placed.anywhere, placed.at_start, placed.at_end]).flatten()
}

impl Table {
    fn look_up(&self, value: &Value<'_>, scratch: &mut Scratch) {
        match value {
            Value::Str(text) => {
                if !self.numbers.is_empty()
                    && let Ok(number) = text.parse::<f64>()
                {
                    self.look_up_number(number, scratch);
                }
                self.look_up_text(text, scratch);
            }
            Value::Int(number) => {
                if let Some(rules) = self.numbers.get(number) {
                    scratch.add(rules);
                }
                self.look_up_shown(number, scratch);
            }
            Value::Float(number) => {
                self.look_up_number(*number, scratch);
                self.look_up_shown(number, scratch);
            }
            Value::Bool(truth) => self.look_up_text(if *truth { "true" } else { "false" }, scratch),
            Value::List(items) => items.iter().for_each(|item| self.look_up(item, scratch)),
            Value::Null | Value::Map(_) => {}
        }
    }

    fn look_up_number(&self, number: f64, scratch: &mut Scratch) {
        // A number that is all but an integer equals it.
        if let Some(rules) = self.numbers.get(&(number.round() as i64)) {
            scratch.add(rules);
        }
    }

    /// A number has no upper case, and nothing to look for in most tables.
    fn look_up_shown(&self, shown: &dyn std::fmt::Display, scratch: &mut Scratch) {
        if self.equal.is_empty() && self.texts.is_empty() {
            return;
        }
        let mut text = std::mem::take(&mut scratch.folded);
        text.clear();
        // Writing to a string does not fail.
        let _ = write!(text, "{shown}");
        text.make_ascii_lowercase();
        self.look_up_folded(&text, scratch);
        scratch.folded = text;
    }

    fn look_up_text(&self, text: &str, scratch: &mut Scratch) {
        if !self.not_ascii.is_empty() && !text.is_ascii() {
            scratch.add(&self.not_ascii);
        }
        if self.equal.is_empty() && self.texts.is_empty() {
            return;
        }
        let mut folded = std::mem::take(&mut scratch.folded);
        folded.clear();
        fold(text, &mut folded);
        self.look_up_folded(&folded, scratch);
        scratch.folded = folded;
    }

    fn look_up_folded(&self, folded: &str, scratch: &mut Scratch) {
        if self.lengths & length_bit(folded) != 0
            && let Some(rules) = self.equal.get(folded)
        {
            scratch.add(rules);
        }
        for texts in &self.texts {
            texts.look_up(folded, scratch);
        }
    }
}

impl Texts {
    /// An automaton for these texts, or the rules again where there can be none.
    fn new(texts: &[&str], rules: Vec<Placed>) -> Result<Self, Vec<Placed>> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let fast = bytes <= FAST_TEXT_BYTES;
        let kind = if fast { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        match AhoCorasick::builder().kind(Some(kind)).build(texts) {
            Ok(automaton) => Ok(Self { automaton, rules }),
            Err(_) => Err(rules),
        }
    }

    fn look_up(&self, folded: &str, scratch: &mut Scratch) {
        for found in self.automaton.find_overlapping_iter(folded) {
            let Some(placed) = self.rules.get(found.pattern().as_usize()) else { continue };
            scratch.add(&placed.anywhere);
            if found.start() == 0 {
                scratch.add(&placed.at_start);
            }
            if found.end() == folded.len() {
                scratch.add(&placed.at_end);
            }
        }
    }
}

#[cfg(test)]
mod tests;
