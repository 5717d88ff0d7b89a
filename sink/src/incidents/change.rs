//! One change applied to one incident.

use schemas::{Edit, IncidentChange};
use serde_json::{Map, Value, json};

use super::merge::{Merged, merge, open};
use super::state::{Incident, Status};
use crate::encode::audit::AuditRow;
use crate::encode::quarantine::clean;

/// What a change did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// As the metric names it: `opened`, `updated`, `reopened`, `merged`, `changed`, `refused` or `unchanged`.
    pub kind: &'static str,
    /// Everything but more of the same activity is audited.
    pub audit: Option<AuditRow>,
}

/// Applies a change to the incident, which may not be there yet. Every change that has an effect is a new version.
pub fn apply(incident: &mut Option<Incident>, change: &IncidentChange<'_>) -> Applied {
    let mut detail = Map::new();
    let action = match decide(incident, change, &mut detail) {
        Ok(action) => action,
        Err(reason) => {
            detail = Map::from_iter([("reason".to_owned(), json!(reason))]);
            if let Some(asked) = change.edit.as_ref().map(asked) {
                detail.insert("asked".to_owned(), asked);
            }
            "refused"
        }
    };
    if let Some(incident) = incident {
        detail.insert("version".to_owned(), json!(incident.version));
    }
    let audited = !matches!(action, "updated" | "unchanged");
    let audit = audited.then(|| AuditRow {
        at: change.at,
        id: change.change_id,
        org: change.org.clone().into_owned(),
        actor: clean(&change.actor).into_owned(),
        action,
        incident: change.incident_id,
        detail: Value::Object(detail),
    });
    Applied { kind: action, audit }
}

fn decide(
    slot: &mut Option<Incident>,
    change: &IncidentChange<'_>,
    detail: &mut Map<String, Value>,
) -> Result<&'static str, String> {
    let Some(incident) = slot else {
        let window = change.window.as_ref().ok_or("there is no such incident")?;
        let mut incident = open(&change.org, change.incident_id, change.at, window);
        if let Some(edit) = &change.edit {
            let status = wanted_status(edit)?;
            set_fields(&mut incident, edit, status, detail);
            incident.reopened = false;
        }
        detail.insert("title".to_owned(), json!(incident.title));
        detail.insert("severity_id".to_owned(), json!(incident.severity_id));
        *slot = Some(incident);
        return Ok("opened");
    };

    if let Some(asked) = change.edit.as_ref().and_then(|edit| edit.if_version)
        && asked != incident.version
    {
        return Err(format!("the incident is at version {}, not {asked}", incident.version));
    }
    if let Some(edit) = &change.edit
        && let Some(next) = wanted_status(edit)?
        && next != incident.status
        && !incident.status.may_become(next)
    {
        return Err(format!("{} cannot become {next}", incident.status));
    }

    let mut action = "unchanged";
    if let Some(window) = &change.window {
        action = match merge(incident, change.at, window) {
            Merged::Unchanged => "unchanged",
            Merged::Advanced if incident.status.is_closed() && incident.merged_into.is_none() => {
                set_status(incident, Status::Open, detail);
                incident.reopened = true;
                "reopened"
            }
            Merged::Updated | Merged::Advanced => "updated",
        };
    }
    if let Some(into) = change.merged_into
        && incident.merged_into != Some(into)
    {
        incident.merged_into = Some(into);
        // Its life goes on in the other: nobody should be kept busy by both.
        set_status(incident, Status::Resolved, detail);
        detail.insert("into".to_owned(), json!(into));
        action = "merged";
    }
    if let Some(edit) = &change.edit {
        let status = wanted_status(edit)?;
        set_fields(incident, edit, status, detail);
        action = "changed";
    }
    if action != "unchanged" {
        incident.version = incident.version.saturating_add(1);
        incident.updated_at = incident.updated_at.max(change.at);
    }
    Ok(action)
}

fn wanted_status(edit: &Edit<'_>) -> Result<Option<Status>, String> {
    match edit.status.as_deref() {
        None => Ok(None),
        Some(name) => {
            Status::from_name(name).map(Some).ok_or_else(|| format!("there is no status {}", clean(name)))
        }
    }
}

fn set_fields(
    incident: &mut Incident,
    edit: &Edit<'_>,
    status: Option<Status>,
    detail: &mut Map<String, Value>,
) {
    if let Some(status) = status {
        set_status(incident, status, detail);
        incident.reopened = false;
    }
    if let Some(assignee) = &edit.assignee {
        let next = Some(clean(assignee).into_owned()).filter(|name| !name.is_empty());
        if next != incident.assignee {
            detail.insert("assignee".to_owned(), json!({"from": incident.assignee, "to": next}));
            incident.assignee = next;
        }
    }
    if let Some(note) = &edit.note {
        detail.insert("note".to_owned(), json!(clean(note)));
    }
}

fn set_status(incident: &mut Incident, next: Status, detail: &mut Map<String, Value>) {
    if next != incident.status {
        detail.insert("status".to_owned(), json!({"from": incident.status, "to": next}));
        incident.status = next;
    }
}

/// What a refused edit wanted.
fn asked(edit: &Edit<'_>) -> Value {
    let mut asked = Map::new();
    for (name, value) in [("status", &edit.status), ("assignee", &edit.assignee), ("note", &edit.note)] {
        if let Some(value) = value {
            asked.insert(name.to_owned(), json!(clean(value)));
        }
    }
    if let Some(version) = edit.if_version {
        asked.insert("if_version".to_owned(), json!(version));
    }
    Value::Object(asked)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use schemas::{Micros, Window};
    use uuid::Uuid;

    use super::*;

    fn change(at: i64) -> IncidentChange<'static> {
        IncidentChange {
            org: "demo".into(),
            incident_id: Uuid::from_u128(1),
            change_id: Uuid::from_u128(at as u128),
            at: Micros(at),
            actor: "correlate".into(),
            window: None,
            edit: None,
            merged_into: None,
        }
    }

    fn activity(at: i64, count: i64) -> IncidentChange<'static> {
        let window = Window {
            rule_id: "r".into(),
            rule_hash: "h".into(),
            title: "t\0".into(),
            description: "".into(),
            severity_id: 4,
            tags: vec![],
            references: vec![],
            false_positives: vec![],
            group_key: vec![],
            entities: vec![],
            first_time: Micros(0),
            last_time: Micros(count),
            count,
            evidence: vec![],
            evidence_truncated: false,
            flags: 0,
        };
        IncidentChange { window: Some(window), ..change(at) }
    }

    fn edit(at: i64, status: Option<&'static str>, if_version: Option<i32>) -> IncidentChange<'static> {
        let edit = Edit { status: status.map(Into::into), assignee: None, note: None, if_version };
        IncidentChange { edit: Some(edit), actor: "ada".into(), ..change(at) }
    }

    fn applied(changes: &[IncidentChange<'_>]) -> (Option<Incident>, Vec<&'static str>) {
        let mut incident = None;
        let kinds = changes.iter().map(|change| apply(&mut incident, change).kind).collect();
        (incident, kinds)
    }

    #[test]
    fn every_effective_change_is_a_version() {
        let (incident, kinds) = applied(&[
            activity(1, 5),
            activity(2, 5),
            activity(3, 6),
            edit(4, Some("acknowledged"), Some(2)),
        ]);
        assert_eq!(kinds, ["opened", "unchanged", "updated", "changed"]);
        let incident = incident.unwrap();
        assert_eq!(
            (incident.version, incident.status, incident.title.as_str()),
            (3, Status::Acknowledged, "t\u{fffd}")
        );
        assert_eq!((incident.created_at, incident.updated_at), (Micros(1), Micros(4)));
    }

    #[test]
    fn an_edit_of_another_version_is_refused_and_audited() {
        let mut incident = None;
        apply(&mut incident, &activity(1, 5));
        let before = incident.clone();
        let refused = apply(&mut incident, &edit(2, Some("resolved"), Some(7)));
        assert_eq!((refused.kind, &incident), ("refused", &before));
        let audit = refused.audit.unwrap();
        assert_eq!((audit.action, audit.actor.as_str()), ("refused", "ada"));
        assert_eq!(audit.detail["reason"], "the incident is at version 1, not 7");
        assert_eq!(audit.detail["asked"]["status"], "resolved");
        assert_eq!(
            apply(&mut None, &edit(2, None, None)).audit.unwrap().detail["reason"],
            "there is no such incident"
        );
    }

    #[rstest]
    #[case(&["acknowledged", "resolved", "open"], &["changed", "changed", "changed"])]
    #[case(&["false_positive", "acknowledged"], &["changed", "refused"])]
    #[case(&["resolved", "false_positive"], &["changed", "refused"])]
    #[case(&["acknowledged", "acknowledged", "open"], &["changed", "changed", "changed"])]
    #[case(&["closed"], &["refused"])]
    fn statuses_follow_the_flow(#[case] statuses: &[&'static str], #[case] expected: &[&str]) {
        let mut incident = None;
        apply(&mut incident, &activity(1, 5));
        let kinds: Vec<_> =
            statuses.iter().map(|status| apply(&mut incident, &edit(2, Some(*status), None)).kind).collect();
        assert_eq!(kinds, expected);
    }

    #[rstest]
    #[case("resolved")]
    #[case("false_positive")]
    fn activity_reopens_what_was_closed_but_a_repetition_does_not(#[case] closed: &'static str) {
        let (incident, kinds) = applied(&[activity(1, 5), edit(2, Some(closed), None), activity(3, 5)]);
        assert_eq!((kinds[2], incident.unwrap().status), ("unchanged", Status::from_name(closed).unwrap()));
        let (incident, kinds) = applied(&[activity(1, 5), edit(2, Some(closed), None), activity(3, 6)]);
        let incident = incident.unwrap();
        assert_eq!((kinds[2], incident.status, incident.reopened), ("reopened", Status::Open, true));
    }

    #[test]
    fn a_merged_incident_is_over_for_good() {
        let merge = IncidentChange { merged_into: Some(Uuid::from_u128(2)), ..change(2) };
        let (incident, kinds) = applied(&[activity(1, 5), merge.clone(), merge, activity(3, 9)]);
        let incident = incident.unwrap();
        assert_eq!(kinds, ["opened", "merged", "unchanged", "updated"]);
        assert_eq!((incident.status, incident.merged_into), (Status::Resolved, Some(Uuid::from_u128(2))));
    }

    #[test]
    fn an_incident_made_by_hand_has_its_note_in_the_opening() {
        let edit = Edit {
            status: None,
            assignee: Some("ada".into()),
            note: Some("seen it".into()),
            if_version: None,
        };
        let mut incident = None;
        let opened = apply(&mut incident, &IncidentChange { edit: Some(edit), ..activity(1, 1) });
        let detail = opened.audit.unwrap().detail;
        assert_eq!(
            (opened.kind, &detail["note"], &detail["assignee"]["to"]),
            ("opened", &json!("seen it"), &json!("ada"))
        );
        assert_eq!(incident.unwrap().assignee.as_deref(), Some("ada"));
    }
}
