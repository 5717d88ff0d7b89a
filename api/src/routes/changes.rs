//! Changes of incidents: checked as far as can be, then published; the sink decides and audits.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemas::{Edit, IncidentChange, Micros, Pair, Window};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tokio_postgres::types::Json as JsonColumn;
use utoipa::ToSchema;
use uuid::Uuid;

use super::asks::{IncidentEdit, NewIncident};
use super::incidents::detail;
use crate::Api;
use crate::auth::{Analyst, Caller};
use crate::body::JsonBody;
use crate::params::{Params, path_uuid};
use crate::problem::{Body as Problem_, Problem};
use crate::select::{Select, Table, param};
use crate::store::{Scoped, unreadable};
use crate::time::Time;

/// How long `?wait=applied` waits.
const APPLIED_WITHIN: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A change that is published and will be applied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    /// The incident.
    incident_id: Uuid,
    /// The change, as the incident's history will name it.
    change_id: Uuid,
    /// Always `accepted`.
    status: &'static str,
}

/// Creates an incident by hand. With an Idempotency-Key, repeating it changes the same incident.
#[utoipa::path(
    post,
    path = "/v1/incidents",
    operation_id = "create_incident",
    tag = "incidents",
    params(
        ("wait" = Option<String>, Query, description = "`applied`: answer when the incident is there, within 10 s."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gives the same incident."),
    ),
    request_body = NewIncident,
    responses(
        (status = CREATED, description = "With wait=applied: it is there.", body = super::incidents::Detail),
        (status = ACCEPTED, description = "Published; Location says where to look.", body = Accepted),
        (status = BAD_REQUEST, description = "Malformed.", body = Problem_, content_type = "application/problem+json"),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = PAYLOAD_TOO_LARGE, description = "Over 256 KiB.", body = Problem_, content_type = "application/problem+json"),
        (status = UNSUPPORTED_MEDIA_TYPE, description = "Not JSON.", body = Problem_, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "Fields that cannot be used.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The broker does not take it now.", body = Problem_, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Caller(analyst): Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewIncident>,
) -> Result<Response, Problem> {
    let wait = wait(query.as_deref())?;
    let references = new.check()?;
    let key = idempotency_key(&headers)?;
    let incident_id = match &key {
        Some(key) => {
            let pair = Pair { name: "idempotency_key".into(), value: key.into() };
            schemas::incident_id(analyst.org.as_str(), "manual", &[pair], 0)
        }
        None => Uuid::now_v7(),
    };
    let now = Micros::now();
    let times = || references.iter().map(|reference| reference.time);
    let change = IncidentChange {
        org: analyst.org.as_str().into(),
        incident_id,
        change_id: Uuid::now_v7(),
        at: now,
        actor: Cow::Borrowed(&analyst.label),
        window: Some(Window {
            rule_id: "manual".into(),
            rule_hash: "".into(),
            title: Cow::Borrowed(&new.title),
            description: Cow::Borrowed(&new.description),
            severity_id: new.severity.id().unwrap_or_default(),
            tags: new.tags.iter().map(Cow::from).collect(),
            references: Vec::new(),
            false_positives: Vec::new(),
            group_key: Vec::new(),
            entities: new
                .entities
                .iter()
                .map(|entity| Pair { name: (&entity.name).into(), value: (&entity.value).into() })
                .collect(),
            first_time: times().min().unwrap_or(now),
            last_time: times().max().unwrap_or(now),
            count: i64::try_from(references.len()).unwrap_or_default(),
            evidence: references.clone(),
            evidence_truncated: false,
            flags: 0,
        }),
        // There always is one: only then the change is audited even if it repeats another.
        edit: Some(Edit {
            status: None,
            assignee: new.assignee.as_deref().map(Cow::from),
            note: new.note.as_deref().map(Cow::from),
            if_version: None,
        }),
        merged_into: None,
    };
    api.publisher.publish(&change, "create").await?;
    finish(&api, &analyst, &change, wait, StatusCode::CREATED).await
}

/// Changes status or assignee of an incident, or adds a note.
///
/// open → acknowledged → resolved or false_positive, the step between optional; back to open from anywhere.
#[utoipa::path(
    patch,
    path = "/v1/incidents/{id}",
    operation_id = "change_incident",
    tag = "incidents",
    params(
        ("id" = Uuid, Path, description = "The incident."),
        ("wait" = Option<String>, Query, description = "`applied`: answer when it is applied or refused, within 10 s."),
        ("If-Match" = Option<String>, Header, description = "Apply only at this version: the ETag of the incident."),
    ),
    request_body = IncidentEdit,
    responses(
        (status = OK, description = "With wait=applied: it is applied.", body = super::incidents::Detail),
        (status = ACCEPTED, description = "Published; Location says where to look.", body = Accepted),
        (status = BAD_REQUEST, description = "Malformed.", body = Problem_, content_type = "application/problem+json"),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = NOT_FOUND, description = "There is no such incident.", body = Problem_, content_type = "application/problem+json"),
        (status = CONFLICT, description = "The incident's status does not allow it.", body = Problem_, content_type = "application/problem+json"),
        (status = PRECONDITION_FAILED, description = "The incident is at another version.", body = Problem_, content_type = "application/problem+json"),
        (status = UNSUPPORTED_MEDIA_TYPE, description = "Not JSON.", body = Problem_, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "Fields that cannot be used.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The broker does not take it now.", body = Problem_, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn change(
    State(api): State<Arc<Api>>,
    Caller(analyst): Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    JsonBody(edit): JsonBody<IncidentEdit>,
) -> Result<Response, Problem> {
    let wait = wait(query.as_deref())?;
    let if_version = if_match(&headers)?;
    edit.check()?;
    let incident_id = path_uuid(&id)?;
    let scoped = api.store.scoped(&analyst.org);
    edit.check_against(&scoped, incident_id, if_version).await?;
    let change = IncidentChange {
        org: analyst.org.as_str().into(),
        incident_id,
        change_id: Uuid::now_v7(),
        at: Micros::now(),
        actor: Cow::Borrowed(&analyst.label),
        window: None,
        edit: Some(Edit {
            status: edit.status.as_deref().map(Cow::from),
            assignee: edit.assignee.as_ref().map(|name| Cow::from(name.as_deref().unwrap_or_default())),
            note: edit.note.as_deref().map(Cow::from),
            if_version,
        }),
        merged_into: None,
    };
    api.publisher.publish(&change, "edit").await?;
    finish(&api, &analyst, &change, wait, StatusCode::OK).await
}

impl IncidentEdit {
    /// Refuses at once what cannot succeed. What passes may still be refused, if others change it first.
    async fn check_against(
        &self,
        scoped: &Scoped<'_>,
        id: Uuid,
        if_version: Option<i32>,
    ) -> Result<(), Problem> {
        let select =
            Select::new("incident_state", Table::Incidents, "version, status").and("id = ?", [param(id)]);
        let rows = scoped.fetch(select).await?;
        let row = rows.first().ok_or_else(|| Problem::not_found("there is no such incident"))?;
        let read = || Ok((row.try_get::<_, i32>(0)?, row.try_get::<_, &str>(1)?));
        let (version, status) = read().map_err(|error| unreadable("incident_state", &error))?;
        if let Some(wanted) = if_version
            && wanted != version
        {
            return Err(Problem::version(format!("the incident is at version {version}, not {wanted}")));
        }
        match self.status.as_deref() {
            Some(next) if !may_become(status, next) => {
                Err(Problem::conflict(format!("{status} cannot become {next}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether an analyst may go from one status to the other, as the sink decides it.
fn may_become(status: &str, next: &str) -> bool {
    status == next || next == "open" || status == "open" || status == "acknowledged"
}

fn wait(query: Option<&str>) -> Result<bool, Problem> {
    let mut params = Params::parse(query);
    let wait = params.wait();
    params.finish()?;
    Ok(wait)
}

/// The version in `If-Match: "7"`; none for `*`, which every incident matches.
fn if_match(headers: &HeaderMap) -> Result<Option<i32>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    version.parse().map(Some).map_err(|_| {
        Problem::malformed("If-Match must be one version, such as \"7\": the ETag of the incident")
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=256).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Problem::malformed("Idempotency-Key must have 1 to 256 visible ASCII characters")),
    }
}

/// What became of a change.
enum Outcome {
    Applied,
    Refused(Value),
}

/// Answers 202, or waits for the change's audit row and answers with what became of it.
async fn finish(
    api: &Api,
    analyst: &Analyst,
    change: &IncidentChange<'_>,
    wait: bool,
    applied: StatusCode,
) -> Result<Response, Problem> {
    let (incident_id, change_id) = (change.incident_id, change.change_id);
    let location = [(header::LOCATION, format!("/v1/incidents/{incident_id}"))];
    let scoped = api.store.scoped(&analyst.org);
    let outcome = if wait { outcome(&scoped, change).await? } else { None };
    match outcome {
        Some(Outcome::Applied) => {
            let mut response = (location, detail(&scoped, incident_id).await?).into_response();
            *response.status_mut() = applied;
            Ok(response)
        }
        Some(Outcome::Refused(why)) => Err(refused(change, &why)),
        None => {
            let body = Json(Accepted { incident_id, change_id, status: "accepted" });
            Ok((StatusCode::ACCEPTED, location, body).into_response())
        }
    }
}

/// Looks for the change's audit row until it is there; none when that takes too long.
async fn outcome(scoped: &Scoped<'_>, change: &IncidentChange<'_>) -> Result<Option<Outcome>, Problem> {
    let deadline = Instant::now() + APPLIED_WITHIN;
    let mut pause = FIRST_LOOK;
    while Instant::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let select = Select::new("change", Table::AuditLog, "action, detail")
            .and("object = 'incident' AND object_id = ?", [param(change.incident_id.to_string())])
            .and("at >= ? AND id = ?", [param(Time(change.at.0)), param(change.change_id)])
            .limit(1);
        let rows = scoped.fetch(select).await?;
        let Some(row) = rows.first() else { continue };
        let read = || Ok((row.try_get::<_, &str>(0)?, row.try_get::<_, JsonColumn<Value>>(1)?.0));
        let (action, detail) = read().map_err(|error| unreadable("change", &error))?;
        let refused = action == "refused";
        return Ok(Some(if refused { Outcome::Refused(detail) } else { Outcome::Applied }));
    }
    Ok(None)
}

/// Why the sink refused a change, as its audit row has it.
fn refused(change: &IncidentChange<'_>, why: &Value) -> Problem {
    let reason = why.get("reason").and_then(Value::as_str).unwrap_or("the change was refused");
    let asked = change.edit.as_ref().and_then(|edit| edit.if_version);
    let version = why.get("version").and_then(Value::as_i64);
    match (asked, version) {
        (Some(asked), Some(version)) if i64::from(asked) != version => Problem::version(reason),
        _ => Problem::conflict(reason),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("open", "acknowledged", true)]
    #[case("open", "resolved", true)]
    #[case("open", "open", true)]
    #[case("acknowledged", "false_positive", true)]
    #[case("acknowledged", "open", true)]
    #[case("resolved", "open", true)]
    #[case("resolved", "resolved", true)]
    #[case("resolved", "acknowledged", false)]
    #[case("resolved", "false_positive", false)]
    #[case("false_positive", "resolved", false)]
    fn transitions(#[case] from: &str, #[case] to: &str, #[case] allowed: bool) {
        assert_eq!(may_become(from, to), allowed);
    }

    #[rstest]
    #[case("\"7\"", Ok(Some(7)))]
    #[case("7", Ok(Some(7)))]
    #[case("*", Ok(None))]
    #[case("\"x\"", Err(()))]
    #[case("\"7\", \"8\"", Err(()))]
    fn if_match_takes_one_version(#[case] value: &str, #[case] expected: Result<Option<i32>, ()>) {
        let headers = HeaderMap::from_iter([(header::IF_MATCH, value.parse().unwrap())]);
        assert_eq!(if_match(&headers).map_err(|_| ()), expected);
    }

    #[test]
    fn a_refusal_for_the_version_is_told_from_others() {
        let change = |if_version| IncidentChange {
            org: "demo".into(),
            incident_id: Uuid::nil(),
            change_id: Uuid::nil(),
            at: Micros(0),
            actor: "alice".into(),
            window: None,
            edit: Some(Edit { status: None, assignee: None, note: None, if_version }),
            merged_into: None,
        };
        let why = serde_json::json!({"reason": "r", "version": 8});
        assert_eq!(refused(&change(Some(7)), &why).status(), StatusCode::PRECONDITION_FAILED);
        assert_eq!(refused(&change(Some(8)), &why).status(), StatusCode::CONFLICT);
        assert_eq!(refused(&change(None), &why).status(), StatusCode::CONFLICT);
    }
}
