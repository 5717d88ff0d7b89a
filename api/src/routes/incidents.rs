//! Incidents: the list, and one with its evidence and history.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio_postgres::types::Json as JsonColumn;
use tokio_postgres::{Error, Row};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::events::{answer, at_least};
use super::evidence::{self, Evidence, Reference};
use crate::Api;
use crate::auth::{Caller, Org};
use crate::cursor::{self, IncidentPosition};
use crate::names::{self, STATUSES};
use crate::params::{Paging, Params, path_uuid};
use crate::problem::{Body as Problem_, Problem};
use crate::row::{Columns, Flags, FromRow, Page};
use crate::select::{Select, Table, param};
use crate::store::{Scoped, unreadable};
use crate::time::Time;

/// Changes shown with an incident; the newest.
const MAX_HISTORY: usize = 500;

/// A field and its value.
#[derive(Debug, Serialize, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameValue {
    /// `user`, `host`, `ip` …
    pub(crate) name: String,
    /// What it was.
    pub(crate) value: String,
}

/// An incident.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Incident<'a> {
    /// The incident.
    id: Uuid,
    /// When it was opened.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When it changed last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Time,
    /// Rises with every change; what `If-Match` takes.
    version: i32,
    /// `open`, `acknowledged`, `resolved` or `false_positive`.
    status: &'a str,
    /// OCSF severity.
    severity_id: i32,
    /// Its name.
    severity: &'static str,
    /// One line for a person.
    title: &'a str,
    /// A paragraph for a person.
    description: &'a str,
    /// Rule or correlation that fired; `manual` when created by hand.
    rule_id: &'a str,
    /// Hash of the rule's content.
    rule_hash: &'a str,
    /// Who works on it.
    assignee: Option<&'a str>,
    /// ATT&CK tags and the like.
    tags: Vec<&'a str>,
    /// Where to read more.
    references: Vec<&'a str>,
    /// Known harmless causes.
    false_positives: Vec<&'a str>,
    /// What the rule grouped by.
    #[schema(value_type = Vec<NameValue>)]
    group_key: &'a RawValue,
    /// Users, hosts and addresses seen in the evidence.
    #[schema(value_type = Vec<NameValue>)]
    entities: &'a RawValue,
    /// Earliest evidence.
    #[schema(value_type = String, format = DateTime)]
    first_time: Time,
    /// Latest evidence.
    #[schema(value_type = String, format = DateTime)]
    last_time: Time,
    /// Occurrences.
    event_count: i64,
    /// Events that are kept as evidence.
    evidence_count: i32,
    /// There were more than are kept.
    evidence_truncated: bool,
    /// Union of the evidence's flags.
    #[schema(value_type = Vec<String>)]
    flags: Flags,
    /// It went on after it was closed.
    reopened: bool,
    /// The incident that it goes on as.
    merged_into: Option<Uuid>,
}

const COLUMNS: &str = "created_at, id, updated_at, version, status, severity_id, title, description, rule_id, rule_hash, \
                       assignee, tags, reference_urls, false_positives, group_key, entities, first_time, last_time, \
                       event_count, jsonb_array_length(evidence), evidence_truncated, flags, reopened, merged_into";

impl<'a> FromRow<'a> for Incident<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        let created_at = columns.take()?;
        let id = columns.take()?;
        let updated_at = columns.take()?;
        let version = columns.take()?;
        let status = columns.take()?;
        let severity_id = columns.take()?;
        Ok(Self {
            id,
            created_at,
            updated_at,
            version,
            status,
            severity_id,
            severity: names::severity(severity_id),
            title: columns.take()?,
            description: columns.take()?,
            rule_id: columns.take()?,
            rule_hash: columns.take()?,
            assignee: columns.take()?,
            tags: columns.take()?,
            references: columns.take()?,
            false_positives: columns.take()?,
            group_key: columns.take::<JsonColumn<_>>()?.0,
            entities: columns.take::<JsonColumn<_>>()?.0,
            first_time: columns.take()?,
            last_time: columns.take()?,
            event_count: columns.take()?,
            evidence_count: columns.take()?,
            evidence_truncated: columns.take()?,
            flags: Flags(columns.take()?),
            reopened: columns.take()?,
            merged_into: columns.take()?,
        })
    }
}

fn place(row: &Row) -> Result<IncidentPosition, Problem> {
    let read = || {
        let mut columns = Columns::of(row);
        Ok(IncidentPosition { created_at: columns.take()?, id: columns.take()? })
    };
    read().map_err(|error: Error| unreadable("incidents_page", &error))
}

/// What may be asked of incidents; read by [`Filter::parse`], described here.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters in the OpenAPI document")]
pub(crate) struct IncidentParams {
    /// In this status, or several with commas.
    #[param(example = "open,acknowledged")]
    status: Option<String>,
    /// `severity_id` at least this, by name or number; `other` is left out.
    #[param(example = "high")]
    severity: Option<String>,
    /// Of this rule or correlation.
    rule: Option<String>,
    /// Of this assignee.
    assignee: Option<String>,
    /// With this address among its entities or group key.
    src_ip: Option<String>,
    /// With this user among them.
    user: Option<String>,
    /// With this host among them.
    host: Option<String>,
    /// Opened before this time; now unless given.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Opened at this time or later; an hour before `to` unless given.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Rows of a page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What is asked of incidents.
#[derive(Debug)]
pub(crate) struct Filter {
    statuses: Option<Vec<String>>,
    severity: Option<i32>,
    rule: Option<String>,
    assignee: Option<String>,
    src_ip: Option<String>,
    user: Option<String>,
    host: Option<String>,
    paging: Paging<IncidentPosition>,
}

impl Filter {
    pub(crate) fn parse(params: &mut Params, org: &Org) -> Self {
        Self {
            statuses: params.choices("status", STATUSES),
            severity: params.severity(),
            rule: params.text("rule"),
            assignee: params.text("assignee"),
            // In the canonical form that entities have.
            src_ip: params.address("src_ip").map(|address| address.to_string()),
            user: params.text("user"),
            host: params.text("host"),
            paging: params.paging(org),
        }
    }

    fn select(&self) -> Select {
        let window = self.paging.window;
        let mut select = Select::new("incidents_page", Table::Incidents, COLUMNS)
            .and("created_at >= ?", [param(window.from)])
            .and_if("status = ANY (?)", self.statuses.clone())
            .and_if("rule_id = ?", self.rule.clone())
            .and_if("assignee = ?", self.assignee.clone());
        select = at_least(select, self.severity);
        select = having(select, &["ip", "src_ip"], self.src_ip.as_deref());
        select = having(select, &["user"], self.user.as_deref());
        select = having(select, &["host"], self.host.as_deref());
        select = match &self.paging.after {
            Some(after) => {
                select.and("(created_at, id) < (?, ?)", [param(after.created_at), param(after.id)])
            }
            None => select.and("created_at < ?", [param(window.to)]),
        };
        select.order_by("created_at DESC, id DESC").limit(usize::from(self.paging.limit) + 1)
    }
}

/// Adds that an incident's entities or group key have a value under one of these names.
fn having(select: Select, names: &[&'static str], value: Option<&str>) -> Select {
    let Some(value) = value else { return select };
    let wanted = |name: &str| json!([{"name": name, "value": value}]);
    let either = "entities @> ? OR group_key @> ?";
    match names {
        [one, other] => select.and(
            "entities @> ? OR group_key @> ? OR entities @> ? OR group_key @> ?",
            [param(wanted(one)), param(wanted(one)), param(wanted(other)), param(wanted(other))],
        ),
        [one, ..] => select.and(either, [param(wanted(one)), param(wanted(one))]),
        [] => select,
    }
}

/// Incidents, those opened last first.
#[utoipa::path(
    get,
    path = "/v1/incidents",
    operation_id = "list_incidents",
    tag = "incidents",
    params(IncidentParams),
    responses(
        (status = OK, description = "A page of incidents.", body = Page<Incident>),
        (status = BAD_REQUEST, description = "Parameters that cannot be used.", body = Problem_, content_type = "application/problem+json"),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The database cannot be asked now.", body = Problem_, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Caller(analyst): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut params = Params::parse(query.as_deref());
    let filter = Filter::parse(&mut params, &analyst.org);
    params.finish()?;
    let mut rows = api.store.scoped(&analyst.org).fetch(filter.select()).await?;
    let paging = &filter.paging;
    let mut next_cursor = None;
    if rows.len() > usize::from(paging.limit) {
        rows.truncate(usize::from(paging.limit));
        let last = rows.last().map(place).transpose()?;
        next_cursor = last.map(|at| cursor::encode(paging.window.from, &at, paging.binding));
    }
    answer::<Incident<'_>>("incidents_page", &rows, next_cursor)
}

/// A change of an incident, applied or refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Change<'a> {
    /// The change.
    id: Uuid,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// `correlate`, or the label of an analyst's token.
    actor: &'a str,
    /// `opened`, `changed`, `reopened`, `merged` or `refused`.
    action: &'a str,
    /// What changed, or why nothing did.
    #[schema(value_type = Object)]
    detail: &'a RawValue,
}

impl<'a> FromRow<'a> for Change<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        Ok(Self {
            id: columns.take()?,
            at: columns.take()?,
            actor: columns.take()?,
            action: columns.take()?,
            detail: columns.take::<JsonColumn<_>>()?.0,
        })
    }
}

/// An incident with what it rests on and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detail<'a> {
    #[serde(flatten)]
    incident: Incident<'a>,
    /// The events and findings that are kept, oldest first.
    evidence: Vec<Evidence<'a>>,
    /// Its changes, newest first, 500 at most.
    history: Vec<Change<'a>>,
}

/// An incident with its evidence and history.
#[utoipa::path(
    get,
    path = "/v1/incidents/{id}",
    operation_id = "get_incident",
    tag = "incidents",
    params(("id" = Uuid, Path, description = "The incident.")),
    responses(
        (status = OK, description = "The incident.", body = Detail, headers(("ETag" = String, description = "Its version, for If-Match."))),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = NOT_FOUND, description = "There is no such incident.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The database cannot be asked now.", body = Problem_, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Caller(analyst): Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let id = path_uuid(&id)?;
    Params::parse(query.as_deref()).finish()?;
    detail(&api.store.scoped(&analyst.org), id).await
}

/// The columns of an incident, then its evidence.
const DETAIL_COLUMNS: &str = "created_at, id, updated_at, version, status, severity_id, title, description, rule_id, \
                              rule_hash, assignee, tags, reference_urls, false_positives, group_key, entities, \
                              first_time, last_time, event_count, jsonb_array_length(evidence), evidence_truncated, \
                              flags, reopened, merged_into, evidence";

/// The answer with one incident.
///
/// # Errors
/// 404 where there is none; otherwise as [`Scoped::fetch`].
pub(crate) async fn detail(scoped: &Scoped<'_>, id: Uuid) -> Result<Response, Problem> {
    let select = Select::new("incident", Table::Incidents, DETAIL_COLUMNS).and("id = ?", [param(id)]);
    let rows = scoped.fetch(select).await?;
    let row = rows.first().ok_or_else(|| Problem::not_found("there is no such incident"))?;
    let incident = Incident::from_row(row).map_err(|error| unreadable("incident", &error))?;
    let references = row.try_get::<_, JsonColumn<Vec<Reference>>>("evidence");
    let references = references.map_err(|error| unreadable("incident", &error))?.0;
    let (found, history) =
        tokio::try_join!(evidence::fetch(scoped, &references), history(scoped, id, incident.created_at))?;
    let history: Result<Vec<Change<'_>>, Error> = history.iter().map(Change::from_row).collect();
    let history = history.map_err(|error| unreadable("history", &error))?;
    let version = incident.version;
    let evidence = found.of(&references)?;
    let body = Json(Detail { incident, evidence, history });
    Ok(([(header::ETAG, format!("\"{version}\""))], body).into_response())
}

async fn history(scoped: &Scoped<'_>, id: Uuid, created_at: Time) -> Result<Vec<Row>, Problem> {
    // A change is not made before the incident it changes; partitions of earlier months are not read.
    let select = Select::new("history", Table::AuditLog, "id, at, actor, action, detail")
        .and("object = 'incident' AND object_id = ?", [param(id.to_string())])
        .and("at >= ?", [param(created_at)])
        .order_by("at DESC, id DESC")
        .limit(MAX_HISTORY);
    scoped.fetch(select).await
}
