//! What an event must have for a rule to match, as far as it can be told without evaluating the rule.
//!
//! An engine says for each rule a [`Need`]; a sieve picks from it the clues to look for. A need may be weaker than the
//! rule, never stronger: an event that the rule matches always meets it.

use crate::view::FieldId;

/// What must hold for a rule to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing that is known.
    Nothing,
    /// This.
    Clue(Clue),
    /// All of these.
    All(Vec<Need>),
    /// At least one of these; none at all where the rule cannot match.
    Any(Vec<Need>),
}

/// Something simple about an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Clue {
    /// The field it is about; none for the message and every string of the attributes.
    pub field: Option<FieldId>,
    pub test: Test,
}

/// About the value as text, [`folded`](fold); of a list, about one of its items. Texts are ASCII and lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Test {
    Equals(Box<str>),
    Contains(Box<str>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    /// A number, or the text of one.
    Number(i64),
    /// A character that is not ASCII.
    NotAscii,
}

impl Need {
    pub(crate) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut parts: Vec<Self> = parts.into_iter().filter(|part| *part != Self::Nothing).collect();
        match parts.len() {
            0 => Self::Nothing,
            1 => parts.pop().unwrap_or(Self::Nothing),
            _ => Self::All(parts),
        }
    }

    pub(crate) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts: Vec<Self> = parts.into_iter().collect();
        if parts.contains(&Self::Nothing) { Self::Nothing } else { Self::Any(parts) }
    }

    /// Calls `visit` with every clue in it.
    pub(crate) fn each_clue<'n>(&'n self, visit: &mut dyn FnMut(&'n Clue)) {
        match self {
            Self::Nothing => {}
            Self::Clue(clue) => visit(clue),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each_clue(visit)),
        }
    }

    /// Sets of clues, the cheapest first and no more than `most`: an event that meets the need has at least one clue of each.
    /// None where an event without any clue may meet it.
    pub(crate) fn sets<'n>(&'n self, cost: &dyn Fn(&Clue) -> u64, most: usize) -> Vec<ClueSet<'n>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Clue(clue) => vec![ClueSet { cost: cost(clue), clues: vec![clue] }],
            Self::All(parts) => {
                let mut sets: Vec<_> = parts.iter().flat_map(|part| part.sets(cost, most)).collect();
                sets.sort_by_key(|set| set.cost);
                sets.truncate(most);
                sets
            }
            Self::Any(parts) => {
                let of_parts: Vec<_> = parts.iter().map(|part| part.sets(cost, most)).collect();
                if of_parts.iter().any(Vec::is_empty) {
                    return Vec::new();
                }
                // A part with fewer sets stands for itself again.
                let count = of_parts.iter().map(Vec::len).max().unwrap_or(1);
                let set = |at: usize| {
                    let mut all = ClueSet { cost: 0, clues: Vec::new() };
                    for set in of_parts.iter().filter_map(|sets| sets.get(at).or(sets.last())) {
                        all.cost = all.cost.saturating_add(set.cost);
                        all.clues.extend(&set.clues);
                    }
                    all
                };
                (0..count).map(set).collect()
            }
        }
    }
}

/// Clues, one of which is enough.
#[derive(Debug, Clone)]
pub(crate) struct ClueSet<'n> {
    pub cost: u64,
    pub clues: Vec<&'n Clue>,
}

/// Appends `text` to `folded` such that whatever compares without regard to case finds the same ASCII letters there: in
/// lower case, the long s as s too, since regular expressions take it for one.
pub(crate) fn fold(text: &str, folded: &mut String) {
    let mut rest = text;
    loop {
        let (run, after) = rest.split_at_checked(ascii_run(rest.as_bytes())).unwrap_or((rest, ""));
        let start = folded.len();
        folded.push_str(run);
        if let Some(run) = folded.get_mut(start..) {
            run.make_ascii_lowercase();
        }
        let mut characters = after.chars();
        let Some(character) = characters.next() else { break };
        folded.extend(character.to_lowercase().map(|lower| if lower == 'ſ' { 's' } else { lower }));
        rest = characters.as_str();
    }
}

/// How many ASCII characters `bytes` begins with.
fn ascii_run(bytes: &[u8]) -> usize {
    // In steps that the processor takes at once.
    let whole = bytes.chunks_exact(64).take_while(|chunk| chunk.is_ascii()).count() * 64;
    let rest = bytes.get(whole..).unwrap_or_default();
    whole + rest.iter().position(|byte| !byte.is_ascii()).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clue(text: &str) -> Need {
        Need::Clue(Clue { field: None, test: Test::Contains(text.into()) })
    }

    fn texts(need: &Need) -> Vec<String> {
        let text = |clue: &Clue| match &clue.test {
            Test::Contains(text) => text.to_string(),
            _ => String::new(),
        };
        let sets = need.sets(&|clue| text(clue).len() as u64, 2);
        let joined = |set: ClueSet<'_>| set.clues.into_iter().map(text).collect::<Vec<_>>().join(" ");
        sets.into_iter().map(joined).collect()
    }

    #[test]
    fn the_cheapest_sets_are_parts_of_all_and_unions_of_any() {
        let need = Need::all([
            Need::any([clue("a"), clue("bbbb")]),
            Need::Nothing,
            Need::any([clue("cc"), Need::all([clue("ddd"), clue("dd")])]),
            Need::any([clue("e"), Need::Nothing]),
        ]);
        assert_eq!(texts(&need), ["cc dd", "a bbbb"]);
        assert_eq!(
            texts(&Need::any([clue("cc"), Need::all([clue("ddd"), clue("dd")])])),
            ["cc dd", "cc ddd"]
        );
        assert_eq!(texts(&Need::any([])), [""]);
        assert_eq!(texts(&Need::all([Need::Nothing])), [""; 0]);
    }

    #[test]
    fn folding_finds_what_ignores_case() {
        for (text, wanted) in [("MiXed", "mixed"), ("\u{212a}ÄſΣ", "käsσ"), ("İ", "i\u{307}")] {
            let mut folded = String::from("A");
            fold(text, &mut folded);
            assert_eq!(folded, format!("A{wanted}"));
        }
    }
}
