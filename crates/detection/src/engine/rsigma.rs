//! rsigma-parser and rsigma-eval behind the crate's own types.
//!
//! Taken from rsigma: the YAML parser, modifiers, values and their compiled comparisons. Done here: field lookup by id,
//! conditions, and the order of evaluation, because rsigma's own evaluation builds a result with owned strings for
//! every match.

use std::borrow::Cow;

use rsigma_eval::{
    CompiledDetection, CompiledMatcher, CompiledRule, Event, EventValue, compiler::eval_condition,
};
use rsigma_parser::{Level, SigmaCollection, SigmaRule, parse_sigma_yaml};
use serde_json::Value as Json;

use super::condition::Condition;
use super::raw::Raw;
use super::{
    Asked, Document, Engine, Matcher, Refusal, bounds, compile, correlation, filter, outline, placeholder,
    shape, text,
};
use crate::attributes::MAX_NAMES;
use crate::need::Need;
use crate::outline::Outline;
use crate::rule::{LogSource, Meta};
use crate::taxonomy::Taxonomy;
use crate::value::Value;
use crate::view::{FieldId, Fields, View};

/// The engine.
pub(crate) struct Rsigma;

impl Engine for Rsigma {
    fn compile(
        &self,
        documents: &[&str],
        hash: &str,
        fields: &mut Fields,
        taxonomy: &Taxonomy,
    ) -> Result<Option<Document>, Refusal> {
        let Some((last, earlier)) = documents.split_last() else { return Ok(None) };
        bounds::check_text(last)?;
        let raw = Raw::read(documents)?;
        raw.as_ref().map_or(Ok(()), shape::check)?;
        let before =
            if earlier.is_empty() { SigmaCollection::new() } else { parse(&earlier.join("\n---\n"))? };
        let mut parsed = parse(&documents.join("\n---\n"))?;
        if let Some(error) = parsed.errors.get(before.errors.len()) {
            return Err(locate(error, last, documents));
        }
        let Some(raw) = raw else { return Ok(None) };
        if parsed.filters.len() > before.filters.len() {
            let filter = parsed.filters.pop().ok_or_else(|| Refusal::new("the filter is empty"))?;
            return filter::compile(filter, last, &raw, fields, taxonomy).map(Some);
        }
        if parsed.correlations.len() > before.correlations.len() {
            let rule = parsed.correlations.pop().ok_or_else(|| Refusal::new("the correlation is empty"))?;
            return correlation::compile(rule, &raw, hash).map(|rule| Some(Document::Correlation(rule)));
        }
        if parsed.rules.len() > before.rules.len() {
            let rule = parsed.rules.pop().ok_or_else(|| Refusal::new("the rule is empty"))?;
            bounds::check_rule(&rule, last)?;
            shape::check_counts(&raw, &rule.detection)?;
            return detection(rule, &raw, hash, fields, taxonomy).map(Some);
        }
        Ok(None)
    }

    fn outline(&self, documents: &[&str], taxonomy: &Taxonomy, asked: Asked<'_, '_>) -> Option<Outline> {
        Some(outline::of(&last_rule(documents, taxonomy)?, asked))
    }
}

/// The last document's rule; of a filter the rule that matches where it holds.
fn last_rule(documents: &[&str], taxonomy: &Taxonomy) -> Option<SigmaRule> {
    let mut parsed = parse(&documents.join("\n---\n")).ok()?;
    let rule = parsed.filters.pop().map(filter::as_rule).or_else(|| parsed.rules.pop())?;
    placeholder::fill(&rule, taxonomy).map(Cow::into_owned).ok()
}

fn parse(text: &str) -> Result<SigmaCollection, Refusal> {
    parse_sigma_yaml(text).map_err(|error| Refusal::new(error.to_string()))
}

/// Finds the line that rsigma's message is about: YAML errors say `at line N`, conditions stand behind `condition:`.
fn locate(message: &str, last: &str, documents: &[&str]) -> Refusal {
    // YAML also ends lines at characters that no editor takes for an end, and errors may be behind the last line.
    let lines = last.lines().count().max(1);
    let line = if let Some((_, rest)) = message.split_once("at line ") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let skipped: usize = documents.iter().rev().skip(1).map(|doc| doc.lines().count() + 1).sum();
        digits.parse::<usize>().ok().and_then(|line| line.checked_sub(skipped)).filter(|&line| line > 0)
    } else if message.starts_with("Condition") {
        last.lines().position(|line| line.trim_start().starts_with("condition:")).map(|index| index + 1)
    } else {
        None
    };
    Refusal { line: line.map(|line| line.min(lines)), reason: message.to_owned() }
}

pub(super) fn severity(level: Option<Level>) -> i32 {
    match level {
        Some(Level::Informational) => 1,
        Some(Level::Low) => 2,
        Some(Level::Medium) | None => 3,
        Some(Level::High) => 4,
        Some(Level::Critical) => 5,
    }
}

pub(super) fn identity(raw: &Raw<'_>, id: Option<&String>, name: Option<&String>) -> Result<String, Refusal> {
    shape::check_id(raw)?;
    id.or(name).cloned().ok_or_else(|| Refusal::new("the rule has neither an id nor a name"))
}

fn detection(
    rule: SigmaRule,
    raw: &Raw<'_>,
    hash: &str,
    fields: &mut Fields,
    taxonomy: &Taxonomy,
) -> Result<Document, Refusal> {
    let matcher = Program::compile(&rule, raw, fields, taxonomy)?;
    Ok(Document::Detection {
        meta: Meta {
            id: identity(raw, rule.id.as_ref(), rule.name.as_ref())?,
            name: rule.name,
            hash: hash.to_owned(),
            title: rule.title,
            description: rule.description.unwrap_or_default().trim().to_owned(),
            author: rule.author,
            severity_id: severity(rule.level),
            tags: rule.tags,
            references: rule.references,
            false_positives: rule.falsepositives,
        },
        logsource: lower(rule.logsource),
        matcher: Box::new(matcher),
    })
}

pub(super) fn lower(source: rsigma_parser::LogSource) -> LogSource {
    let lower = |part: Option<String>| part.map(|text| text.to_lowercase());
    LogSource {
        product: lower(source.product),
        category: lower(source.category),
        service: lower(source.service),
    }
}

/// A detection compiled for evaluation against a [`View`].
pub(super) enum Program {
    /// Selections and conditions resolved here.
    Resolved { selections: Vec<Selection>, conditions: Vec<Condition> },
    /// A rule that matches inside arrays: rsigma evaluates it itself.
    Whole(Box<CompiledRule>),
}

pub(super) enum Selection {
    AllOf(Vec<Item>),
    AnyOf(Vec<Selection>),
    And(Vec<Selection>),
    Keywords(CompiledMatcher),
}

pub(super) struct Item {
    pub field: Option<FieldId>,
    pub exists: Option<bool>,
    pub matcher: CompiledMatcher,
}

impl Program {
    /// The program of a rule, whose field names are given ids. `raw` is what its document says.
    pub(super) fn compile(
        rule: &SigmaRule,
        raw: &Raw<'_>,
        fields: &mut Fields,
        taxonomy: &Taxonomy,
    ) -> Result<Self, Refusal> {
        let filled = placeholder::fill(rule, taxonomy)?;
        let compiled = compile::compile(&filled).map_err(|refusal| shape::blame(raw, &filled, refusal))?;
        for detection in compiled.detections.values() {
            intern(detection, fields, taxonomy);
        }
        if fields.is_full() {
            return Err(Refusal::new(format!(
                "the rules name too many different fields, {MAX_NAMES} or more"
            )));
        }
        Self::with_known_fields(compiled, fields)
            .map_err(|refusal| raw.at(&[raw.section(), "condition"], refusal))
    }

    /// The program of a rule whose field names all have ids.
    pub(super) fn with_known_fields(rule: CompiledRule, fields: &Fields) -> Result<Self, Refusal> {
        let mut names: Vec<String> = rule.detections.keys().cloned().collect();
        names.sort();
        let conditions: Vec<Condition> = rule
            .conditions
            .iter()
            .map(|condition| Condition::compile(condition, &names))
            .collect::<Result<_, _>>()?;
        let selections: Option<Vec<Selection>> =
            names.iter().filter_map(|name| rule.detections.get(name)).map(|d| resolve(d, fields)).collect();
        Ok(match selections {
            Some(selections) => Self::Resolved { selections, conditions },
            None => Self::Whole(Box::new(rule)),
        })
    }
}

/// Gives an id to every field name below `detection`, those compared with included.
fn intern(detection: &CompiledDetection, fields: &mut Fields, taxonomy: &Taxonomy) {
    match detection {
        CompiledDetection::AllOf(items) => {
            for item in items {
                if let Some(name) = &item.field {
                    fields.intern(name, taxonomy);
                }
                intern_compared(&item.matcher, fields, taxonomy);
            }
        }
        CompiledDetection::AnyOf(parts) | CompiledDetection::And(parts) => {
            parts.iter().for_each(|part| intern(part, fields, taxonomy));
        }
        CompiledDetection::ArrayMatch { field, .. } => {
            fields.intern(field, taxonomy);
        }
        CompiledDetection::Conditional { named, .. } => {
            named.values().for_each(|part| intern(part, fields, taxonomy));
        }
        CompiledDetection::Keywords(_) => {}
    }
}

fn intern_compared(matcher: &CompiledMatcher, fields: &mut Fields, taxonomy: &Taxonomy) {
    match matcher {
        CompiledMatcher::FieldRef { field, .. } => {
            fields.intern(field, taxonomy);
        }
        CompiledMatcher::Expand { template, .. } => {
            for part in template {
                if let rsigma_eval::matcher::ExpandPart::Placeholder(name) = part {
                    fields.intern(name, taxonomy);
                }
            }
        }
        CompiledMatcher::Not(inner) => intern_compared(inner, fields, taxonomy),
        CompiledMatcher::AnyOf(parts) | CompiledMatcher::AllOf(parts) => {
            parts.iter().for_each(|part| intern_compared(part, fields, taxonomy));
        }
        _ => {}
    }
}

/// The detection with its fields as ids; none where only rsigma can evaluate it.
fn resolve(detection: &CompiledDetection, fields: &Fields) -> Option<Selection> {
    let all = |parts: &[CompiledDetection]| {
        parts.iter().map(|part| resolve(part, fields)).collect::<Option<Vec<_>>>()
    };
    Some(match detection {
        CompiledDetection::AllOf(items) => Selection::AllOf(
            items
                .iter()
                .map(|item| {
                    Some(Item {
                        field: match &item.field {
                            Some(name) => Some(fields.id(name)?),
                            None => None,
                        },
                        exists: item.exists,
                        matcher: item.matcher.clone(),
                    })
                })
                .collect::<Option<_>>()?,
        ),
        CompiledDetection::AnyOf(parts) => Selection::AnyOf(all(parts)?),
        CompiledDetection::And(parts) => Selection::And(all(parts)?),
        CompiledDetection::Keywords(matcher) => Selection::Keywords(matcher.clone()),
        CompiledDetection::ArrayMatch { .. } | CompiledDetection::Conditional { .. } => return None,
    })
}

impl Matcher for Program {
    fn matches(&self, event: &View<'_>) -> bool {
        match self {
            Self::Resolved { selections, conditions } => conditions.iter().any(|condition| {
                condition.holds(&mut |index| selections.get(index).is_some_and(|s| s.matches(event)))
            }),
            Self::Whole(rule) => rule.conditions.iter().any(|condition| {
                eval_condition(condition, &rule.detections, &Adapter(event), &mut Vec::new())
            }),
        }
    }

    fn need(&self) -> Need {
        match self {
            Self::Resolved { selections, conditions } => {
                let needs: Vec<Need> = selections.iter().map(Selection::need).collect();
                Need::any(conditions.iter().map(|condition| condition.need(&needs)))
            }
            Self::Whole(_) => Need::Nothing,
        }
    }
}

impl Selection {
    fn matches(&self, event: &View<'_>) -> bool {
        match self {
            Self::AllOf(items) => items.iter().all(|item| item.matches(event)),
            Self::AnyOf(parts) => parts.iter().any(|part| part.matches(event)),
            Self::And(parts) => parts.iter().all(|part| part.matches(event)),
            Self::Keywords(matcher) => matcher.matches_keyword(&Adapter(event)),
        }
    }
}

impl Item {
    fn matches(&self, event: &View<'_>) -> bool {
        let Some(field) = self.field else {
            return match self.exists {
                Some(expected) => !expected,
                None => self.matcher.matches_keyword(&Adapter(event)),
            };
        };
        let value = event.get(field);
        if let Some(expected) = self.exists {
            return value.is_some() == expected;
        }
        match value {
            Some(Value::Str(value)) => text::matches(&self.matcher, &value).unwrap_or_else(|| {
                let value = if is_time(&self.matcher) { with_t(value) } else { value };
                self.matcher.matches(&EventValue::Str(value), &Adapter(event))
            }),
            Some(value) => self.matcher.matches(&EventValue::from(value), &Adapter(event)),
            None => is_null(&self.matcher),
        }
    }
}

/// Whether a field that is absent matches: null, alone or as one of several values.
fn is_null(matcher: &CompiledMatcher) -> bool {
    match matcher {
        CompiledMatcher::Null => true,
        CompiledMatcher::AnyOf(parts) => parts.iter().any(is_null),
        _ => false,
    }
}

/// Whether a part of a time is compared.
fn is_time(matcher: &CompiledMatcher) -> bool {
    match matcher {
        CompiledMatcher::TimestampPart { .. } => true,
        CompiledMatcher::Not(inner) => is_time(inner),
        CompiledMatcher::AnyOf(parts) | CompiledMatcher::AllOf(parts) => parts.iter().any(is_time),
        _ => false,
    }
}

/// A time with the `T` for which many write a blank: without it rsigma reads no fraction and no zone.
fn with_t(mut time: Cow<'_, str>) -> Cow<'_, str> {
    if time.as_bytes().get(10) == Some(&b' ') {
        time.to_mut().replace_range(10..11, "T");
    }
    time
}

impl<'a> From<Value<'a>> for EventValue<'a> {
    fn from(value: Value<'a>) -> Self {
        match value {
            Value::Str(text) => Self::Str(text),
            Value::Int(number) => Self::Int(number),
            Value::Float(number) => Self::Float(number),
            Value::Bool(truth) => Self::Bool(truth),
            Value::Null => Self::Null,
            Value::List(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Map(entries) => {
                Self::Map(entries.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        }
    }
}

/// A view as rsigma sees an event.
struct Adapter<'v, 'a>(&'v View<'a>);

impl Event for Adapter<'_, '_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        self.0.by_name(path).map(EventValue::from)
    }

    fn any_string_value(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        self.0.any_string(&mut |text| pred(text))
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        let mut all = Vec::new();
        self.0.any_string(&mut |text| {
            all.push(Cow::Owned(text.to_owned()));
            false
        });
        all
    }

    /// Asked for only where a rule wants the event in its result, which nothing here reads.
    fn to_json(&self) -> Json {
        Json::Null
    }
}
