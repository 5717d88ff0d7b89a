//! From a parsed rule to rsigma's compiled one.
//!
//! Between the two lies rsigma's intermediate form. What rsigma 0.23 takes otherwise than Sigma means is put right there:
//! each function below says what.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rsigma_eval::{CompiledRule, compile_to_compiled};
use rsigma_ir::{
    IrDetection, IrDetectionItem, IrEncoding, IrMatcher, IrNumber, IrPattern, IrPatternPart, IrStrOp,
    LowerOptions, lower_rule,
};
use rsigma_parser::value::{SpecialChar, StringPart};
use rsigma_parser::{Detection, DetectionItem, Modifier, SigmaRule, SigmaString, SigmaValue};

use super::Refusal;

/// Compiles a rule.
pub(super) fn compile(rule: &SigmaRule) -> Result<CompiledRule, Refusal> {
    let mut rule = rule.clone();
    rule.detection.named.values_mut().for_each(keep_as_written);
    let lowered = lower_rule(&rule, &LowerOptions::default());
    let mut lowered = lowered.map_err(|error| Refusal::new(error.to_string()))?;
    lowered.detections.values_mut().for_each(correct);
    compile_to_compiled(&lowered).map_err(|error| Refusal::new(error.to_string()))
}

/// The text of a value with `|windash`, in which a parameter that begins with a slash begins with a dash: one stands for the other,
/// and rsigma makes its variants of dashes alone.
pub(super) fn with_dashes(value: &str) -> String {
    let mut before = ' ';
    let dash = |character: char| {
        let parameter = character == '/' && matches!(before, ' ' | '\t' | '"' | '\'' | '*');
        before = character;
        if parameter { '-' } else { character }
    };
    value.chars().map(dash).collect()
}

/// Makes rsigma hand values with `|windash` over as they are written: it would not tell a wildcard in them from an asterisk.
fn keep_as_written(detection: &mut Detection) {
    let keep = |item: &mut DetectionItem| {
        if !item.field.modifiers.contains(&Modifier::WindAsh) {
            return;
        }
        for value in &mut item.values {
            if let SigmaValue::String(string) = value {
                string.original = with_dashes(&string.original);
                string.parts = vec![StringPart::Plain(string.original.clone())];
            }
        }
    };
    match detection {
        Detection::AllOf(items) => items.iter_mut().for_each(keep),
        Detection::AnyOf(parts) | Detection::And(parts) => parts.iter_mut().for_each(keep_as_written),
        Detection::ArrayMatch { body, .. } => keep_as_written(body),
        Detection::Conditional { named, .. } => named.values_mut().for_each(keep_as_written),
        Detection::Keywords(_) => {}
    }
}

fn correct(detection: &mut IrDetection) {
    match detection {
        IrDetection::AllOf(items) => {
            *items = std::mem::take(items).into_iter().flat_map(each_keyword).collect();
            items.iter_mut().for_each(|item| correct_matcher(&mut item.matcher));
        }
        IrDetection::AnyOf(parts) | IrDetection::And(parts) => parts.iter_mut().for_each(correct),
        IrDetection::ArrayMatch { body, .. } => correct(body),
        IrDetection::Conditional { named, .. } => named.values_mut().for_each(correct),
        IrDetection::Keywords(matcher) => {
            as_keyword(matcher);
            correct_matcher(matcher);
        }
    }
}

/// Keywords with `|all` may stand in different fields, and inside longer texts.
fn each_keyword(item: IrDetectionItem) -> Vec<IrDetectionItem> {
    if item.field.is_some() || item.exists.is_some() {
        return vec![item];
    }
    let parts = match item.matcher {
        IrMatcher::AllOf(parts) => parts,
        matcher => vec![matcher],
    };
    let alone = |mut matcher: IrMatcher| {
        as_keyword(&mut matcher);
        IrDetectionItem { field: None, matcher, exists: None }
    };
    parts.into_iter().map(alone).collect()
}

/// A keyword is looked for inside the event's texts; so is a number.
fn as_keyword(matcher: &mut IrMatcher) {
    match matcher {
        IrMatcher::Str { op: op @ IrStrOp::Exact, .. } => *op = IrStrOp::Contains,
        IrMatcher::NumericEq(IrNumber::Literal(number)) => {
            let pattern = IrPattern { parts: vec![IrPatternPart::Literal(number.to_string())] };
            *matcher = IrMatcher::Str { op: IrStrOp::Contains, pattern, case_insensitive: true };
        }
        IrMatcher::AnyOf(parts) | IrMatcher::AllOf(parts) => parts.iter_mut().for_each(as_keyword),
        IrMatcher::Not(inner) => as_keyword(inner),
        _ => {}
    }
}

fn correct_matcher(matcher: &mut IrMatcher) {
    let corrected = match matcher {
        IrMatcher::Str { op, pattern, case_insensitive } if pattern.has_wildcards() => {
            Some(with_wildcards(*op, &pattern.parts, *case_insensitive, &regex_syntax::escape))
        }
        IrMatcher::Encoded { encodings, value, case_insensitive, .. }
            if encodings.contains(&IrEncoding::Base64Offset) =>
        {
            Some(base64_offset(encodings, value, *case_insensitive))
        }
        IrMatcher::Encoded { encodings, op, value, case_insensitive }
            if encodings.as_slice() == [IrEncoding::Windash] =>
        {
            Some(windash(*op, value, *case_insensitive))
        }
        IrMatcher::Not(inner) => {
            correct_matcher(inner);
            None
        }
        IrMatcher::AnyOf(parts) | IrMatcher::AllOf(parts) => {
            parts.iter_mut().for_each(correct_matcher);
            None
        }
        _ => None,
    };
    if let Some(corrected) = corrected {
        *matcher = corrected;
    }
}

/// Wildcards stand for line ends too, and `startswith` and `endswith` hold for patterns as for texts: rsigma's `.` ends at a
/// line end, and it ties such patterns to the other end. Wildcards at the ends need no regular expression.
fn with_wildcards(
    op: IrStrOp,
    parts: &[IrPatternPart],
    case_insensitive: bool,
    escape: &dyn Fn(&str) -> String,
) -> IrMatcher {
    let any = |part: &IrPatternPart| matches!(part, IrPatternPart::WildcardMulti);
    let mut inner = parts;
    let (mut starts, mut ends) = match op {
        IrStrOp::Exact => (true, true),
        IrStrOp::StartsWith => (true, false),
        IrStrOp::EndsWith => (false, true),
        IrStrOp::Contains => (false, false),
    };
    while let [first, rest @ ..] = inner
        && any(first)
    {
        (inner, starts) = (rest, false);
    }
    while let [rest @ .., last] = inner
        && any(last)
    {
        (inner, ends) = (rest, false);
    }
    let op = match (starts, ends) {
        (true, true) => IrStrOp::Exact,
        (true, false) => IrStrOp::StartsWith,
        (false, true) => IrStrOp::EndsWith,
        (false, false) => IrStrOp::Contains,
    };
    let pattern = IrPattern { parts: inner.to_vec() };
    let plain = pattern.as_plain();
    if plain.as_deref().is_some_and(|text| escape(text) == regex_syntax::escape(text)) {
        return IrMatcher::Str { op, pattern, case_insensitive };
    }
    let mut regex = String::from(if starts { "^" } else { "" });
    for part in inner {
        match part {
            IrPatternPart::Literal(text) => regex.push_str(&escape(text)),
            IrPatternPart::WildcardMulti => regex.push_str(".*"),
            IrPatternPart::WildcardSingle => regex.push('.'),
        }
    }
    regex.push_str(if ends { "$" } else { "" });
    let cased = !case_insensitive;
    IrMatcher::Regex { pattern: regex, case_insensitive, multiline: false, dotall: true, cased }
}

/// Values with `|windash` may have wildcards.
fn windash(op: IrStrOp, value: &str, case_insensitive: bool) -> IrMatcher {
    let string = SigmaString::new(value);
    if let Some(value) = string.as_plain() {
        return IrMatcher::Encoded { encodings: vec![IrEncoding::Windash], op, value, case_insensitive };
    }
    let part = |part: &StringPart| match part {
        StringPart::Plain(text) => IrPatternPart::Literal(text.clone()),
        StringPart::Special(SpecialChar::WildcardMulti) => IrPatternPart::WildcardMulti,
        StringPart::Special(SpecialChar::WildcardSingle) => IrPatternPart::WildcardSingle,
    };
    let parts: Vec<IrPatternPart> = string.parts.iter().map(part).collect();
    let any_dash = |text: &str| regex_syntax::escape(text).replace("\\-", "[-/–—―]");
    with_wildcards(op, &parts, case_insensitive, &any_dash)
}

/// The text as it looks inside base64 at each of its three offsets, without the characters that depend on what is before and
/// behind it: rsigma keeps the last of them.
fn base64_offset(encodings: &[IrEncoding], value: &str, case_insensitive: bool) -> IrMatcher {
    let bytes = encoded(encodings, value);
    let at = |(before, start): (&[u8], usize)| {
        let text = BASE64.encode([before, &bytes].concat());
        let unsure = match (before.len() + bytes.len()) % 3 {
            0 => 0,
            1 => 3,
            _ => 2,
        };
        let text = text.get(start..text.len() - unsure).filter(|text| !text.is_empty())?;
        let pattern = IrPattern { parts: vec![IrPatternPart::Literal(text.to_owned())] };
        Some(IrMatcher::Str { op: IrStrOp::Contains, pattern, case_insensitive })
    };
    let offsets: [(&[u8], usize); 3] = [(b"", 0), (b"\0", 2), (b"\0\0", 3)];
    IrMatcher::AnyOf(offsets.into_iter().filter_map(at).collect())
}

fn encoded(encodings: &[IrEncoding], value: &str) -> Vec<u8> {
    let units = || value.encode_utf16();
    match encodings.first() {
        Some(IrEncoding::Wide) => units().flat_map(u16::to_le_bytes).collect(),
        Some(IrEncoding::Utf16) => {
            [0xff, 0xfe].into_iter().chain(units().flat_map(u16::to_le_bytes)).collect()
        }
        Some(IrEncoding::Utf16Be) => units().flat_map(u16::to_be_bytes).collect(),
        _ => value.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests;
