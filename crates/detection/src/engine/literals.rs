//! Texts that whatever a regular expression matches must contain.

use regex_syntax::hir::{Class, Hir, HirKind};

use crate::need::Need;

/// The need of a regular expression: `clue` makes one of a text in lower case, which may be a single character that is not
/// ASCII.
pub(super) fn need(pattern: &str, clue: &dyn Fn(&str) -> Need) -> Need {
    regex_syntax::parse(pattern).map_or(Need::Nothing, |hir| of(&hir, clue))
}

fn of(hir: &Hir, clue: &dyn Fn(&str) -> Need) -> Need {
    let mut sequence = Sequence { run: String::new(), needs: Vec::new(), clue };
    sequence.add(hir);
    sequence.flush();
    Need::all(sequence.needs)
}

struct Sequence<'c> {
    /// Characters that follow each other for certain.
    run: String,
    needs: Vec<Need>,
    clue: &'c dyn Fn(&str) -> Need,
}

impl Sequence<'_> {
    fn add(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
                Ok(text) => text.chars().for_each(|character| self.push(character)),
                Err(_) => self.flush(),
            },
            HirKind::Class(class) => match letter(class).or_else(|| foreign(class)) {
                Some(character) => self.push(character),
                None => self.flush(),
            },
            // They take no room: what is before and after them is adjacent.
            HirKind::Look(_) | HirKind::Empty => {}
            HirKind::Capture(capture) => self.add(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.add(part)),
            HirKind::Alternation(parts) => {
                self.flush();
                self.needs.push(Need::any(parts.iter().map(|part| of(part, self.clue))));
            }
            HirKind::Repetition(repetition) => {
                self.flush();
                if repetition.min > 0 {
                    self.needs.push(of(&repetition.sub, self.clue));
                }
            }
        }
    }

    fn push(&mut self, character: char) {
        if character.is_ascii() {
            self.run.push(character.to_ascii_lowercase());
        } else {
            self.flush();
            self.needs.push((self.clue)(character.encode_utf8(&mut [0; 4])));
        }
    }

    fn flush(&mut self) {
        if !self.run.is_empty() {
            self.needs.push((self.clue)(&self.run));
            self.run.clear();
        }
    }
}

/// The letter that a class stands for if it is one without regard to case: `[Kk]` and the Kelvin sign, say.
fn letter(class: &Class) -> Option<char> {
    let fold = |character: char| match character {
        'ſ' => Some('s'),
        '\u{212a}' => Some('k'),
        _ => character.is_ascii().then(|| character.to_ascii_lowercase()),
    };
    let Class::Unicode(class) = class else { return None };
    let mut letters = class
        .ranges()
        .iter()
        .map(|range| if range.start() == range.end() { fold(range.start()) } else { None });
    let first = letters.next()??;
    letters.all(|letter| letter == Some(first)).then_some(first)
}

/// One of the characters of a class without ASCII.
fn foreign(class: &Class) -> Option<char> {
    let Class::Unicode(class) = class else { return None };
    class.ranges().first().map(|range| range.start()).filter(|start| !start.is_ascii())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::need::{Clue, Test};

    fn contains(text: &str) -> Need {
        Need::Clue(Clue { field: None, test: Test::Contains(text.into()) })
    }

    #[rstest]
    #[case("(?i)^foo.*Bar$", Need::All(vec![contains("foo"), contains("bar")]))]
    #[case("Sk(?i)SK", contains("sksk"))]
    #[case("a(bb|c)d", Need::All(vec![contains("a"), Need::Any(vec![contains("bb"), contains("c")]), contains("d")]))]
    #[case("(foo|)x", contains("x"))]
    #[case("(foo)+x?", contains("foo"))]
    #[case("a{0,3}[0-9]", Need::Nothing)]
    #[case("aéb", Need::All(vec![contains("a"), contains("é"), contains("b")]))]
    #[case("[\u{202e}\u{200b}-\u{200f}]", contains("\u{200b}"))]
    #[case("(", Need::Nothing)]
    fn texts_that_a_match_must_contain(#[case] pattern: &str, #[case] expected: Need) {
        assert_eq!(need(pattern, &contains), expected);
    }
}
