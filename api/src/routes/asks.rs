//! What the body of a change may ask for.

use schemas::{EventRef, Micros};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::incidents::NameValue;
use crate::body::Fields;
use crate::names::{self, STATUSES};
use crate::problem::Problem;
use crate::row::Id;
use crate::time::Time;

const MAX_TITLE: usize = 500;
const MAX_TEXT: usize = 20_000;
const MAX_NAME: usize = 200;
const MAX_ITEMS: usize = 100;

/// A severity by name or number.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Severity {
    /// 0 to 6.
    Number(i32),
    /// `informational`, `low`, `medium`, `high`, `critical` or `fatal`.
    Name(String),
}

impl Severity {
    pub(super) fn id(&self) -> Option<i32> {
        match self {
            Severity::Number(id) => names::severity_id(&id.to_string()),
            Severity::Name(name) => names::severity_id(name),
        }
    }
}

/// An event or finding, with its time to find it by.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EvidenceRef {
    /// Its id.
    #[schema(example = "events/3/1042/17")]
    id: String,
    /// Its time, exactly as the API shows it.
    #[schema(value_type = String, format = DateTime)]
    time: String,
}

/// An incident to be created by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewIncident {
    /// One line, up to 500 characters.
    pub(super) title: String,
    /// A paragraph.
    #[serde(default)]
    pub(super) description: String,
    /// How bad it is.
    pub(super) severity: Severity,
    /// Up to 100 events or findings that it rests on.
    #[serde(default)]
    pub(super) evidence: Vec<EvidenceRef>,
    /// Up to 100 users, hosts, addresses.
    #[serde(default)]
    pub(super) entities: Vec<NameValue>,
    /// Up to 100 tags.
    #[serde(default)]
    pub(super) tags: Vec<String>,
    /// Who works on it.
    pub(super) assignee: Option<String>,
    /// A comment for its history.
    pub(super) note: Option<String>,
}

/// What is to change of an incident; what is absent stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IncidentEdit {
    /// `open`, `acknowledged`, `resolved` or `false_positive`.
    pub(super) status: Option<String>,
    /// Who works on it; null for nobody.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) assignee: Option<Option<String>>,
    /// A comment for its history.
    pub(super) note: Option<String>,
}

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl NewIncident {
    /// What the evidence refers to.
    ///
    /// # Errors
    /// 422: everything that cannot be used.
    pub(super) fn check(&self) -> Result<Vec<EventRef<'_>>, Problem> {
        let mut fields = Fields::default();
        fields.text("title", &self.title, MAX_TITLE);
        if self.title.trim().is_empty() {
            fields.wrong("title", "is empty");
        }
        fields.text("description", &self.description, MAX_TEXT);
        if self.severity.id().is_none() {
            fields.wrong("severity", "must be informational, low, medium, high, critical, fatal or 0 to 6");
        }
        fields.optional("assignee", self.assignee.as_deref(), MAX_NAME);
        fields.optional("note", self.note.as_deref(), MAX_TEXT);
        for (name, length) in
            [("evidence", self.evidence.len()), ("entities", self.entities.len()), ("tags", self.tags.len())]
        {
            if length > MAX_ITEMS {
                fields.wrong(name, format!("may have {MAX_ITEMS} items at most"));
            }
        }
        for entity in &self.entities {
            fields.text("entities", &entity.name, MAX_NAME);
            fields.text("entities", &entity.value, MAX_TITLE);
        }
        for tag in &self.tags {
            fields.text("tags", tag, MAX_NAME);
        }
        let mut references = Vec::with_capacity(self.evidence.len());
        for (at, evidence) in self.evidence.iter().enumerate() {
            match (Id::parse(&evidence.id), evidence.time.parse::<Time>()) {
                (Some(id), Ok(time)) => references.push(EventRef {
                    stream: id.stream.into(),
                    partition: id.partition,
                    offset: id.offset,
                    index: id.index,
                    time: Micros(time.0),
                    rule: None,
                }),
                (None, _) => fields.wrong(&format!("evidence[{at}].id"), "is no id such as events/3/1042/17"),
                (_, Err(error)) => fields.wrong(&format!("evidence[{at}].time"), error.to_string()),
            }
        }
        fields.finish()?;
        Ok(references)
    }
}

impl IncidentEdit {
    /// # Errors
    /// 422: everything that cannot be used.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let mut fields = Fields::default();
        if self.status.is_none() && self.assignee.is_none() && self.note.is_none() {
            fields.wrong("status", "and assignee and note are all absent: there is nothing to change");
        }
        if self.status.as_deref().is_some_and(|status| !STATUSES.contains(&status)) {
            fields.wrong("status", format!("must be one of {}", STATUSES.join(", ")));
        }
        fields.optional("assignee", self.assignee.as_ref().and_then(|name| name.as_deref()), MAX_NAME);
        fields.optional("note", self.note.as_deref(), MAX_TEXT);
        fields.finish()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{}"#, false)]
    #[case(r#"{"status": "closed"}"#, false)]
    #[case(r#"{"status": "resolved"}"#, true)]
    #[case(r#"{"assignee": null}"#, true)]
    #[case(r#"{"note": "a\u0000b"}"#, false)]
    fn edits_are_checked(#[case] body: &str, #[case] fine: bool) {
        let edit: IncidentEdit = serde_json::from_str(body).unwrap();
        assert_eq!(edit.check().is_ok(), fine);
    }

    #[test]
    fn null_unassigns_and_absence_does_not() {
        let assignee = |body| serde_json::from_str::<IncidentEdit>(body).unwrap().assignee;
        assert_eq!(assignee(r#"{"assignee": null}"#), Some(None));
        assert_eq!(assignee(r#"{}"#), None);
    }

    #[test]
    fn everything_wrong_with_a_new_incident_is_told_at_once() {
        let new: NewIncident = serde_json::from_str(
            r#"{"title": " ", "severity": 99, "evidence": [{"id": "x", "time": "now"}, {"id": "events/0/0/0", "time": "now"}]}"#,
        )
        .unwrap();
        let detail = format!("{:?}", new.check().unwrap_err());
        for field in ["title", "severity", "evidence[0].id", "evidence[1].time"] {
            assert!(detail.contains(field), "{field} not in {detail}");
        }
    }
}
