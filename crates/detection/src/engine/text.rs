//! Comparisons of a text, with rsigma's outcome and without its allocations: it makes a lower-case copy for every comparison.

use std::cell::Cell;

use rsigma_eval::{CompiledMatcher, matcher::GroupMode};

thread_local! {
    static LOWER: Cell<String> = const { Cell::new(String::new()) };
}

/// A text, and the same in lower case as soon as it is asked for.
struct Text<'t> {
    text: &'t str,
    ascii: bool,
    /// Of no use before `lowered`.
    lower: String,
    lowered: bool,
}

/// Whether the text matches; none where that is for rsigma to say, which knows more of the event.
pub(super) fn matches(matcher: &CompiledMatcher, text: &str) -> Option<bool> {
    let mut text = Text { text, ascii: text.is_ascii(), lower: LOWER.take(), lowered: false };
    let outcome = text.matches(matcher);
    LOWER.set(text.lower);
    outcome
}

impl Text<'_> {
    fn matches(&mut self, matcher: &CompiledMatcher) -> Option<bool> {
        use CompiledMatcher::{
            AhoCorasickSet, AllOf, AnyOf, CaseInsensitiveGroup, Contains, EndsWith, Exact, Not, Null, Regex,
            RegexSetMatch, StartsWith,
        };
        Some(match matcher {
            Exact { value, case_insensitive: false } => self.text == value,
            StartsWith { value, case_insensitive: false } => self.text.starts_with(value.as_str()),
            EndsWith { value, case_insensitive: false } => self.text.ends_with(value.as_str()),
            Contains { value, case_insensitive: false } => contains(self.text, value),
            // The values are in lower case, which an ASCII text has without a copy.
            Exact { value, .. } if self.ascii => self.text.eq_ignore_ascii_case(value),
            StartsWith { value, .. } if self.ascii => {
                self.text.get(..value.len()).is_some_and(|start| start.eq_ignore_ascii_case(value))
            }
            EndsWith { value, .. } if self.ascii => {
                let start = self.text.len().checked_sub(value.len());
                let end = start.and_then(|start| self.text.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(value))
            }
            Exact { value, .. } => self.lower() == value,
            StartsWith { value, .. } => self.lower().starts_with(value.as_str()),
            EndsWith { value, .. } => self.lower().ends_with(value.as_str()),
            Contains { value, .. } => contains(self.lower(), value),
            AhoCorasickSet { automaton, case_insensitive, .. } => {
                automaton.is_match(if *case_insensitive { self.lower() } else { self.text })
            }
            Regex(regex) => regex.is_match(self.text),
            RegexSetMatch { set, mode: GroupMode::Any } => set.is_match(self.text),
            Null => false,
            Not(inner) => !self.matches(inner)?,
            AnyOf(parts) => self.any(parts)?,
            AllOf(parts) => self.all(parts)?,
            // rsigma compares regular expressions in these with the lower-case text.
            CaseInsensitiveGroup { children, .. } if !self.ascii || children.iter().any(has_regex) => {
                return None;
            }
            CaseInsensitiveGroup { children, mode: GroupMode::Any } => self.any(children)?,
            CaseInsensitiveGroup { children, mode: GroupMode::All } => self.all(children)?,
            _ => return None,
        })
    }

    fn any(&mut self, parts: &[CompiledMatcher]) -> Option<bool> {
        for part in parts {
            if self.matches(part)? {
                return Some(true);
            }
        }
        Some(false)
    }

    fn all(&mut self, parts: &[CompiledMatcher]) -> Option<bool> {
        for part in parts {
            if !self.matches(part)? {
                return Some(false);
            }
        }
        Some(true)
    }

    fn lower(&mut self) -> &str {
        if !self.lowered {
            self.lowered = true;
            self.lower.clear();
            if self.ascii {
                self.lower.push_str(self.text);
                self.lower.make_ascii_lowercase();
            } else {
                self.lower.push_str(&self.text.to_lowercase());
            }
        }
        &self.lower
    }
}

fn contains(text: &str, part: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some()
}

fn has_regex(matcher: &CompiledMatcher) -> bool {
    match matcher {
        CompiledMatcher::Regex(_) | CompiledMatcher::RegexSetMatch { .. } => true,
        CompiledMatcher::Not(inner) => has_regex(inner),
        CompiledMatcher::AnyOf(parts) | CompiledMatcher::AllOf(parts) => parts.iter().any(has_regex),
        CompiledMatcher::CaseInsensitiveGroup { children, .. } => children.iter().any(has_regex),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rsigma_eval::event::JsonEvent;
    use rsigma_eval::{CompiledDetection, EventValue};
    use rsigma_parser::parse_sigma_yaml;

    use super::super::compile;
    use super::*;

    fn matcher(modifiers: &str, values: &[String]) -> CompiledMatcher {
        let values = serde_json::to_string(values).unwrap();
        let rule = format!(
            "title: x\nid: x\nlogsource: {{category: x}}\ndetection:\n  s:\n    a{modifiers}: {values}\n  condition: s\n"
        );
        let rule = parse_sigma_yaml(&rule).unwrap().rules.remove(0);
        let compiled = compile::compile(&rule).unwrap();
        let Some(CompiledDetection::AllOf(items)) = compiled.detections.get("s") else { panic!() };
        items[0].matcher.clone()
    }

    proptest! {
        #[test]
        fn the_outcome_is_rsigmas(
            modifiers in prop::sample::select(vec![
                "", "|cased", "|contains", "|contains|cased", "|contains|all", "|startswith", "|endswith", "|endswith|cased",
                "|re", "|re|i", "|windash|contains",
            ]),
            values in prop::collection::vec("[aAsSkK.ſΣ-]{1,3}|a\\*s|[aA]{2}", 2..10),
            text in "[aAsSkK.ſΣ\u{212a}-]{0,6}",
        ) {
            let matcher = matcher(modifiers, &values);
            let json = serde_json::Value::Null;
            let expected = matcher.matches(&EventValue::Str((&text).into()), &JsonEvent::borrow(&json));
            prop_assert!(matches(&matcher, &text).is_none_or(|outcome| outcome == expected), "{:?} {}", matcher, text);
        }
    }
}
