//! What rsigma's compiled comparisons need of an event.

use rsigma_eval::{CompiledMatcher, matcher::GroupMode};

use super::condition::Condition;
use super::literals;
use super::rsigma::{Item, Selection};
use crate::need::{Clue, Need, Test};
use crate::view::FieldId;

/// Shorter texts are in too many values to be worth looking for.
const MIN_TEXT_BYTES: usize = 2;
/// What is longer is looked for by so much of it: by its end, where it may stand anywhere, since paths differ there.
const MAX_TEXT_BYTES: usize = 64;

impl Condition {
    pub(super) fn need(&self, selections: &[Need]) -> Need {
        let of = |index: &usize| selections.get(*index).cloned().unwrap_or(Need::Nothing);
        match self {
            Self::Selection(index) => of(index),
            Self::And(parts) => Need::all(parts.iter().map(|part| part.need(selections))),
            Self::Or(parts) => Need::any(parts.iter().map(|part| part.need(selections))),
            Self::Not(_) | Self::AtLeast(0, _) => Need::Nothing,
            Self::AtLeast(wanted, of_these) if *wanted >= of_these.len() => {
                Need::all(of_these.iter().map(of))
            }
            Self::AtLeast(_, of_these) => Need::any(of_these.iter().map(of)),
        }
    }
}

impl Selection {
    pub(super) fn need(&self) -> Need {
        match self {
            Self::AllOf(items) => Need::all(items.iter().map(Item::need)),
            Self::AnyOf(parts) => Need::any(parts.iter().map(Self::need)),
            Self::And(parts) => Need::all(parts.iter().map(Self::need)),
            Self::Keywords(matcher) => of_matcher(matcher, None),
        }
    }
}

impl Item {
    fn need(&self) -> Need {
        match self.exists {
            Some(_) => Need::Nothing,
            None => of_matcher(&self.matcher, self.field),
        }
    }
}

fn of_matcher(matcher: &CompiledMatcher, field: Option<FieldId>) -> Need {
    let clue = |test: Test| Need::Clue(Clue { field, test });
    let contains = |text: &str| match longest_piece(text, field) {
        Some(piece) => clue(Test::Contains(tail(&piece).into())),
        None if field.is_some() && !text.is_ascii() => clue(Test::NotAscii),
        None => Need::Nothing,
    };
    let each =
        |parts: &[CompiledMatcher]| parts.iter().map(|part| of_matcher(part, field)).collect::<Vec<_>>();
    match matcher {
        CompiledMatcher::Exact { value, .. } if field.is_some() && value.is_ascii() => {
            clue(Test::Equals(value.to_ascii_lowercase().into()))
        }
        CompiledMatcher::StartsWith { value, .. } if field.is_some() && long_enough(value) => {
            clue(Test::StartsWith(head(&value.to_ascii_lowercase()).into()))
        }
        CompiledMatcher::EndsWith { value, .. } if field.is_some() && long_enough(value) => {
            clue(Test::EndsWith(tail(&value.to_ascii_lowercase()).into()))
        }
        CompiledMatcher::Exact { value, .. }
        | CompiledMatcher::StartsWith { value, .. }
        | CompiledMatcher::EndsWith { value, .. }
        | CompiledMatcher::Contains { value, .. } => contains(value),
        CompiledMatcher::AhoCorasickSet { needles, .. } => {
            Need::any(needles.iter().map(|text| contains(text)))
        }
        CompiledMatcher::Regex(regex) => literals::need(regex.as_str(), &contains),
        CompiledMatcher::RegexSetMatch { set, mode } => {
            grouped(*mode, set.patterns().iter().map(|pattern| literals::need(pattern, &contains)).collect())
        }
        CompiledMatcher::NumericEq(number) if field.is_some() => whole(*number).map_or(Need::Nothing, clue),
        CompiledMatcher::BoolEq(truth) if field.is_some() => {
            let words = if *truth { ["true", "1", "yes"] } else { ["false", "0", "no"] };
            Need::any(words.map(|word| clue(Test::Equals(word.into()))))
        }
        CompiledMatcher::AnyOf(parts) => Need::any(each(parts)),
        CompiledMatcher::AllOf(parts) => Need::all(each(parts)),
        CompiledMatcher::CaseInsensitiveGroup { children, mode } => grouped(*mode, each(children)),
        _ => Need::Nothing,
    }
}

fn grouped(mode: GroupMode, parts: Vec<Need>) -> Need {
    match mode {
        GroupMode::Any => Need::any(parts),
        GroupMode::All => Need::all(parts),
    }
}

fn whole(number: f64) -> Option<Test> {
    // Above, neighbouring integers are the same float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(Test::Number(number as i64))
}

fn long_enough(text: &str) -> bool {
    text.is_ascii() && text.len() >= MIN_TEXT_BYTES
}

/// Of an ASCII text.
fn head(text: &str) -> &str {
    text.get(..MAX_TEXT_BYTES).unwrap_or(text)
}

fn tail(text: &str) -> &str {
    text.len().checked_sub(MAX_TEXT_BYTES).and_then(|start| text.get(start..)).unwrap_or(text)
}

/// The longest part that can be looked for. In any string, that is done in the attributes' JSON: what may be escaped
/// there is no part.
fn longest_piece(text: &str, field: Option<FieldId>) -> Option<Box<str>> {
    let apart = |character: char| {
        !character.is_ascii()
            || field.is_none() && (matches!(character, '"' | '\\' | '/') || character.is_ascii_control())
    };
    let piece = text.split(apart).max_by_key(|piece| piece.len())?;
    (piece.len() >= MIN_TEXT_BYTES).then(|| piece.to_ascii_lowercase().into())
}
