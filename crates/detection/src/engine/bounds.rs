//! Limits on rule documents, so that none costs more than it could be worth: told before the parser or a compiler has paid.

use regex_syntax::hir::{Class, Hir, HirKind};
use rsigma_parser::value::{SpecialChar, StringPart};
use rsigma_parser::{Detection, DetectionItem, Modifier, SigmaRule, SigmaValue};

use super::{Refusal, compile};

/// Bytes of a document; the largest of SigmaHQ's has 295,078.
const MAX_DOCUMENT_BYTES: usize = 512 * 1024;
/// Brackets that are open at once.
const MAX_BRACKETS: usize = 200;
/// `and`, `or`, `not` and brackets of a condition. The parser takes time by their square.
const MAX_CONDITION_PARTS: usize = 512;
/// Brackets of a condition within each other.
const MAX_CONDITION_DEPTH: usize = 32;
/// References to YAML anchors. Each can repeat what the ones before it have made.
const MAX_ALIASES: usize = 8;
/// Bytes of a document with such references.
const MAX_ALIASED_BYTES: usize = 64 * 1024;
/// Values of a document, those included that `windash` or placeholders make. Compiling them takes time by their square.
pub(super) const MAX_VALUES: usize = 10_000;
/// Size of the regular expressions and wildcard patterns of a document, about that of their automata in 32 bytes: a
/// character 1, a class 2 for each of its ranges, times their repetitions. `\w` has 1,600.
const MAX_PATTERN_SIZE: u64 = 200_000;

/// Checks the text of a document.
pub(crate) fn check_text(text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(Refusal::new(format!(
            "the document has {} bytes, more than {MAX_DOCUMENT_BYTES}",
            text.len()
        )));
    }
    let (mut open, mut in_condition, mut parts, mut depth) = (0usize, false, 0usize, 0usize);
    let (mut anchors, mut aliases) = (0usize, 0usize);
    for (index, line) in text.lines().enumerate() {
        let refuse = |reason: String| Err(Refusal { line: Some(index + 1), reason });
        let mut before = ' ';
        let mut characters = line.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '[' | '{' => open += 1,
                ']' | '}' => open = open.saturating_sub(1),
                '&' | '*' if matches!(before, ' ' | '[' | '{' | ',' | '\t') => {
                    let named = characters.peek().is_some_and(|next| next.is_alphanumeric() || *next == '_');
                    *(if character == '&' { &mut anchors } else { &mut aliases }) += usize::from(named);
                }
                _ => {}
            }
            if open > MAX_BRACKETS {
                return refuse(format!("more than {MAX_BRACKETS} brackets are open"));
            }
            before = character;
        }
        let condition = line.find("condition:");
        if condition.is_some() {
            (in_condition, parts, depth) = (true, 0, 0);
        } else if is_key(line) {
            in_condition = false;
        }
        if in_condition {
            let text = line.get(condition.unwrap_or(0)..).unwrap_or_default();
            parts += condition_parts(text);
            for byte in text.bytes() {
                match byte {
                    b'(' => depth += 1,
                    b')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if depth > MAX_CONDITION_DEPTH {
                    return refuse(format!(
                        "the condition's brackets are more than {MAX_CONDITION_DEPTH} deep"
                    ));
                }
            }
        }
        if parts > MAX_CONDITION_PARTS {
            return refuse(format!(
                "the condition has more than {MAX_CONDITION_PARTS} operators and brackets"
            ));
        }
        if anchors > 0 && aliases > MAX_ALIASES {
            return refuse(format!("more than {MAX_ALIASES} references to anchors"));
        }
    }
    if anchors > 0 && aliases > 0 && text.len() > MAX_ALIASED_BYTES {
        return Err(Refusal::new(format!("it has anchors, and more than {MAX_ALIASED_BYTES} bytes")));
    }
    Ok(())
}

/// Whether a line begins with `name:`.
fn is_key(line: &str) -> bool {
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-|.".contains(byte);
    let line = line.trim_start().as_bytes();
    let end = line.iter().take_while(|byte| name(byte)).count();
    end > 0 && line.get(end) == Some(&b':')
}

fn condition_parts(text: &str) -> usize {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let operators = ["and", "or", "not"];
    let is_operator = |word: &&str| operators.iter().any(|operator| word.eq_ignore_ascii_case(operator));
    words.filter(is_operator).count() + text.bytes().filter(|byte| *byte == b'(').count()
}

/// Checks a parsed rule. `text` is its document.
pub(super) fn check_rule(rule: &SigmaRule, text: &str) -> Result<(), Refusal> {
    let mut sizes = Sizes { text, values: 0, patterns: 0 };
    let mut names: Vec<&String> = rule.detection.named.keys().collect();
    names.sort();
    names.into_iter().filter_map(|name| rule.detection.named.get(name)).try_for_each(|part| sizes.add(part))
}

struct Sizes<'t> {
    text: &'t str,
    values: usize,
    patterns: u64,
}

impl Sizes<'_> {
    fn add(&mut self, detection: &Detection) -> Result<(), Refusal> {
        match detection {
            Detection::AllOf(items) => items.iter().try_for_each(|item| self.add_item(item)),
            Detection::AnyOf(parts) | Detection::And(parts) => {
                parts.iter().try_for_each(|part| self.add(part))
            }
            Detection::Keywords(values) => values.iter().try_for_each(|value| self.add_value(value, &[])),
            Detection::ArrayMatch { body, .. } => self.add(body),
            Detection::Conditional { named, .. } => named.values().try_for_each(|part| self.add(part)),
        }
    }

    fn add_item(&mut self, item: &DetectionItem) -> Result<(), Refusal> {
        item.values.iter().try_for_each(|value| self.add_value(value, &item.field.modifiers))
    }

    fn add_value(&mut self, value: &SigmaValue, modifiers: &[Modifier]) -> Result<(), Refusal> {
        let SigmaValue::String(string) = value else {
            self.values = self.values.saturating_add(1);
            return self.check(None);
        };
        let variants = match modifiers.contains(&Modifier::WindAsh) {
            true => {
                let dashes = compile::with_dashes(&string.original).matches('-').count();
                5usize.saturating_pow(u32::try_from(dashes).unwrap_or(u32::MAX))
            }
            false => 1,
        };
        self.values = self.values.saturating_add(variants);
        self.patterns = self.patterns.saturating_add(match modifiers.contains(&Modifier::Re) {
            true => regex_syntax::parse(&string.original).map_or(0, |hir| size(&hir)),
            false => wildcards(&string.parts).saturating_mul(variants as u64),
        });
        self.check(Some(&string.original))
    }

    fn check(&self, value: Option<&str>) -> Result<(), Refusal> {
        let reason = if self.values > MAX_VALUES {
            format!("the rule has more than {MAX_VALUES} values, those included that windash makes")
        } else if self.patterns > MAX_PATTERN_SIZE {
            format!(
                "the rule's patterns are too large: more than {MAX_PATTERN_SIZE} for characters, ranges and repetitions"
            )
        } else {
            return Ok(());
        };
        let start =
            |value: &str| value.lines().next().unwrap_or_default().chars().take(40).collect::<String>();
        let start = value.map(start).filter(|start| !start.is_empty());
        let line = start.and_then(|start| self.text.lines().position(|line| line.contains(&start)));
        Err(Refusal { line: line.map(|index| index + 1), reason })
    }
}

/// Of a value with wildcards inside, which becomes a regular expression.
fn wildcards(parts: &[StringPart]) -> u64 {
    let size = |part: &StringPart| match part {
        StringPart::Plain(text) => text.len() as u64,
        StringPart::Special(SpecialChar::WildcardMulti | SpecialChar::WildcardSingle) => 16,
    };
    if parts.len() < 2 { 0 } else { parts.iter().map(size).sum() }
}

fn size(hir: &Hir) -> u64 {
    let sum = |parts: &[Hir]| parts.iter().map(size).fold(0, u64::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(Class::Unicode(class)) => 2 * class.ranges().len() as u64,
        HirKind::Class(Class::Bytes(class)) => class.ranges().len() as u64,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min.saturating_add(1));
            size(&repetition.sub).saturating_mul(times.into())
        }
        HirKind::Capture(capture) => size(&capture.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => sum(parts),
    }
}
