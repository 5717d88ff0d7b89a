//! Values with `|expand`: what `%name%` stands for in them is what the user's table of placeholders says.

use std::borrow::Cow;

use rsigma_parser::{Detection, DetectionItem, Modifier, SigmaRule, SigmaString, SigmaValue};

use super::Refusal;
use super::bounds::MAX_VALUES;
use crate::taxonomy::Taxonomy;

/// The rule with the values of its placeholders in their place, and without `|expand`.
///
/// # Errors
/// A placeholder without values: such a rule would never match, or a filter never hold; too many values.
pub(super) fn fill<'r>(rule: &'r SigmaRule, taxonomy: &Taxonomy) -> Result<Cow<'r, SigmaRule>, Refusal> {
    if !rule.detection.named.values().any(asks) {
        return Ok(Cow::Borrowed(rule));
    }
    let mut rule = rule.clone();
    let mut left = MAX_VALUES;
    for detection in rule.detection.named.values_mut() {
        fill_detection(detection, taxonomy, &mut left)?;
    }
    Ok(Cow::Owned(rule))
}

fn asks(detection: &Detection) -> bool {
    match detection {
        Detection::AllOf(items) => items.iter().any(|item| item.field.modifiers.contains(&Modifier::Expand)),
        Detection::AnyOf(parts) | Detection::And(parts) => parts.iter().any(asks),
        Detection::ArrayMatch { body, .. } => asks(body),
        Detection::Conditional { named, .. } => named.values().any(asks),
        Detection::Keywords(_) => false,
    }
}

fn fill_detection(detection: &mut Detection, taxonomy: &Taxonomy, left: &mut usize) -> Result<(), Refusal> {
    match detection {
        Detection::AllOf(items) => items.iter_mut().try_for_each(|item| fill_item(item, taxonomy, left)),
        Detection::AnyOf(parts) | Detection::And(parts) => {
            parts.iter_mut().try_for_each(|part| fill_detection(part, taxonomy, left))
        }
        Detection::ArrayMatch { body, .. } => fill_detection(body, taxonomy, left),
        Detection::Conditional { named, .. } => {
            named.values_mut().try_for_each(|part| fill_detection(part, taxonomy, left))
        }
        Detection::Keywords(_) => Ok(()),
    }
}

fn fill_item(item: &mut DetectionItem, taxonomy: &Taxonomy, left: &mut usize) -> Result<(), Refusal> {
    if !item.field.modifiers.contains(&Modifier::Expand) {
        return Ok(());
    }
    item.field.modifiers.retain(|modifier| *modifier != Modifier::Expand);
    let mut values = Vec::new();
    for value in std::mem::take(&mut item.values) {
        match value {
            SigmaValue::String(string) => {
                let filled = fill_text(&string.original, taxonomy, left)?;
                values.extend(filled.iter().map(|text| SigmaValue::String(SigmaString::new(text))));
            }
            other => values.push(other),
        }
    }
    item.values = values;
    Ok(())
}

/// Every text that `text` stands for, one for each choice of values.
fn fill_text(text: &str, taxonomy: &Taxonomy, left: &mut usize) -> Result<Vec<String>, Refusal> {
    let mut texts = vec![String::new()];
    for piece in pieces(text) {
        texts = match piece {
            Piece::Text(piece) => texts.into_iter().map(|text| text + &piece).collect(),
            Piece::Placeholder(name) => {
                let values = taxonomy.placeholder(name).filter(|values| !values.is_empty()).ok_or_else(|| {
                    Refusal::new(format!(
                        "nothing says what the placeholder %{name}% stands for: give it values in a document \
                         with `taxonomy: {{placeholders: {{{name}: […]}}}}`"
                    ))
                })?;
                if texts.len().saturating_mul(values.len()) > *left {
                    return Err(Refusal::new(format!(
                        "the placeholders come to more than {MAX_VALUES} values"
                    )));
                }
                texts
                    .iter()
                    .flat_map(|text| values.iter().map(move |value| format!("{text}{value}")))
                    .collect()
            }
        };
    }
    *left = left.saturating_sub(texts.len());
    Ok(texts)
}

enum Piece<'t> {
    Text(Cow<'t, str>),
    Placeholder(&'t str),
}

/// Texts and placeholders in turn. A percent sign behind a backslash is none, and neither is one that no other closes.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, behind) = rest.split_at(at);
        let behind = behind.get(1..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('\\') {
            pieces.push(Piece::Text(Cow::Owned(format!("{before}%"))));
            rest = behind;
            continue;
        }
        match behind.split_once('%').filter(|(name, _)| is_name(name)) {
            Some((name, behind)) => {
                pieces.extend([Piece::Text(Cow::Borrowed(before)), Piece::Placeholder(name)]);
                rest = behind;
            }
            None => {
                pieces.push(Piece::Text(Cow::Owned(format!("{before}%"))));
                rest = behind;
            }
        }
    }
    pieces.push(Piece::Text(Cow::Borrowed(rest)));
    pieces
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;
    use schemas::Event;

    use crate::testing::plain_event;
    use crate::{Subject, Taxonomy, load_documents};

    const TABLE: &str = "taxonomy:\n  placeholders: {Admins: [ada, 'adm-*'], Site: ber}\n---\n";

    fn loaded(test: &str) -> crate::Loaded {
        let rule = format!("title: x\nid: x\nlogsource: {{}}\ndetection: {{s: {{{test}}}, condition: s}}\n");
        load_documents(Path::new("x.yml"), &format!("{TABLE}{rule}"), &Taxonomy::shipped().unwrap())
    }

    #[rstest]
    #[case("u|expand: '%Admins%'", "ada", true)]
    #[case("u|expand: '%Admins%'", "adm-7", true)]
    #[case("u|expand: '%Admins%'", "%Admins%", false)]
    #[case("u|expand: '%Admins%'", "bob", false)]
    #[case("u|expand: [bob, '%Admins%']", "bob", true)]
    #[case("u|expand|startswith: '%Admins%.'", "ada.lovelace", true)]
    #[case("u|expand: '%Site%-%Admins%'", "ber-adm-9", true)]
    #[case("u|expand: '\\%plain%Site%'", "%plainber", true)]
    #[case("u|expand: 'a%b'", "a%b", true)]
    #[case("u|expand: '50% of %Site%'", "50% of ber", true)]
    #[case("u: '%Admins%'", "%Admins%", true)]
    #[case("u: '%Admins%'", "ada", false)]
    fn placeholders_stand_for_their_values(#[case] test: &str, #[case] user: &str, #[case] expected: bool) {
        let loaded = loaded(test);
        assert_eq!(loaded.defects, []);
        let attributes = serde_json::json!({"u": user, "Admins": user}).to_string();
        let event = Event { attributes: Some(attributes.into()), ..plain_event() };
        let view = loaded.rules.view(Subject::Event(&event));
        assert_eq!(loaded.rules.matching(&view).next().is_some(), expected);
        let rule = loaded.rules.detections().first().unwrap();
        assert_eq!(loaded.rules.explain(rule, &view).unwrap().holds(), Some(expected));
    }

    #[test]
    fn a_placeholder_without_values_is_refused() {
        let loaded = loaded("u|expand: '%Servers%'");
        let reasons: Vec<&str> = loaded.defects.iter().map(|defect| defect.reason.as_str()).collect();
        assert!(matches!(reasons.as_slice(), [reason] if reason.contains("%Servers%")), "{reasons:?}");
    }

    #[test]
    fn placeholders_do_not_multiply_without_end() {
        let many = "'%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%%Admins%'";
        let loaded = loaded(&format!("u|expand: {many}"));
        assert_eq!(loaded.defects.len(), 1);
    }
}
