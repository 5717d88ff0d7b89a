//! Conditions over selections, with names resolved when the rule is compiled.

use rsigma_parser::{ConditionExpr, Quantifier, SelectorPattern};

use super::Refusal;

/// A condition whose selections are indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Selection(usize),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    /// At least so many of these selections.
    AtLeast(usize, Vec<usize>),
}

impl Condition {
    /// Resolves the names in `expression` among `names`.
    ///
    /// # Errors
    /// A name or pattern that no selection answers to: such a rule could only ever match or miss by accident.
    pub(super) fn compile(expression: &ConditionExpr, names: &[String]) -> Result<Self, Refusal> {
        let all = |parts: &[ConditionExpr]| {
            parts.iter().map(|part| Self::compile(part, names)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match expression {
            ConditionExpr::And(parts) => Self::And(all(parts)?),
            ConditionExpr::Or(parts) => Self::Or(all(parts)?),
            ConditionExpr::Not(part) => Self::Not(Box::new(Self::compile(part, names)?)),
            ConditionExpr::Identifier(name) => {
                Self::Selection(names.iter().position(|known| known == name).ok_or_else(|| {
                    Refusal::new(format!("the condition names '{name}', which is not defined"))
                })?)
            }
            ConditionExpr::Selector { quantifier, pattern } => {
                let selections: Vec<usize> = names
                    .iter()
                    .enumerate()
                    .filter(|(_, name)| fits(pattern, name))
                    .map(|(index, _)| index)
                    .collect();
                if selections.is_empty() {
                    return Err(Refusal::new(format!("the condition's '{pattern}' fits no selection")));
                }
                let wanted = match quantifier {
                    Quantifier::Any => 1,
                    Quantifier::All => selections.len(),
                    Quantifier::Count(count) => usize::try_from(*count).unwrap_or(usize::MAX),
                };
                Self::AtLeast(wanted, selections)
            }
        })
    }

    /// Whether it holds, given which selections match; asks for no more of them than needed.
    pub(super) fn holds(&self, selected: &mut dyn FnMut(usize) -> bool) -> bool {
        match self {
            Self::Selection(index) => selected(*index),
            Self::And(parts) => parts.iter().all(|part| part.holds(selected)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(selected)),
            Self::Not(part) => !part.holds(selected),
            Self::AtLeast(wanted, selections) => {
                let mut missing = *wanted;
                let mut left = selections.len();
                for &index in selections {
                    if missing == 0 || missing > left {
                        break;
                    }
                    left -= 1;
                    if selected(index) {
                        missing -= 1;
                    }
                }
                missing == 0
            }
        }
    }
}

/// Whether a selection is among those that a pattern means; rsigma knows one `*` in it.
pub(super) fn fits(pattern: &SelectorPattern, name: &str) -> bool {
    let SelectorPattern::Pattern(pattern) = pattern else { return pattern.matches_detection_name(name) };
    let mut texts = pattern.split('*');
    let Some(mut rest) = texts.next().and_then(|start| name.strip_prefix(start)) else { return false };
    let Some(end) = texts.next_back() else { return rest.is_empty() };
    for text in texts {
        let Some((_, behind)) = rest.split_once(text) else { return false };
        rest = behind;
    }
    rest.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsigma_parser::parse_condition;
    use rstest::rstest;

    const NAMES: [&str; 4] = ["selection_a", "selection_b", "filter", "_hidden"];

    fn compile(text: &str) -> Result<Condition, Refusal> {
        Condition::compile(&parse_condition(text).unwrap(), &NAMES.map(String::from))
    }

    #[rstest]
    #[case("selection_a and not filter", &[0], true)]
    #[case("selection_a and not filter", &[0, 2], false)]
    #[case("1 of selection_*", &[1], true)]
    #[case("all of selection_*", &[1], false)]
    #[case("all of selection_*", &[0, 1], true)]
    #[case("1 of s*_*a", &[0], true)]
    #[case("1 of s*_*a", &[1], false)]
    #[case("all of *ele*on*", &[0, 1], true)]
    #[case("1 of s**b", &[1], true)]
    #[case("1 of *", &[3], true)]
    #[case("2 of them", &[0, 2], true)]
    #[case("all of them", &[0, 1, 2], true)]
    #[case("selection_a or (selection_b and filter)", &[1, 2], true)]
    fn conditions_hold_as_written(#[case] text: &str, #[case] matching: &[usize], #[case] expected: bool) {
        let condition = compile(text).unwrap();
        assert_eq!(condition.holds(&mut |index| matching.contains(&index)), expected);
    }

    #[rstest]
    #[case("selection_c")]
    #[case("1 of other_*")]
    #[case("1 of f*er*r")]
    #[case("1 of filte")]
    fn names_that_nothing_answers_to_are_refused(#[case] text: &str) {
        assert!(compile(text).is_err());
    }
}
