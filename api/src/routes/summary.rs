//! What is going on, in one answer, from counts alone.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use tokio_postgres::{Error, Row};
use utoipa::{IntoParams, ToSchema};

use super::counts::tagged;
use crate::Api;
use crate::auth::Caller;
use crate::names;
use crate::params::Params;
use crate::problem::{Body as Problem_, Problem};
use crate::row::{Columns, FromRow};
use crate::select::{Select, Table, param};
use crate::store::unreadable;
use crate::time::Time;

/// Incidents in a status, of a severity.
#[derive(Debug, Serialize, ToSchema)]
struct IncidentCount<'a> {
    /// `open`, `acknowledged`, `resolved` or `false_positive`.
    status: &'a str,
    /// OCSF severity.
    severity_id: i32,
    /// Its name.
    severity: &'static str,
    /// How many, of all times.
    count: i64,
}

impl<'a> FromRow<'a> for IncidentCount<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        let status = columns.take()?;
        let severity_id = columns.take()?;
        Ok(Self { status, severity_id, severity: names::severity(severity_id), count: columns.take()? })
    }
}

/// Rows of a class in an hour.
#[derive(Debug, Serialize, ToSchema)]
struct HourCount {
    /// The hour's start.
    #[schema(value_type = String, format = DateTime)]
    hour: Time,
    /// OCSF class.
    class_uid: i32,
    /// How many.
    count: i64,
}

/// Scans in a state.
#[derive(Debug, Serialize, ToSchema)]
struct ScanCount<'a> {
    /// `queued` or `running`.
    state: &'a str,
    /// How many, now.
    count: i64,
}

impl<'a> FromRow<'a> for ScanCount<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        Ok(Self { state: columns.take()?, count: columns.take()? })
    }
}

/// What is going on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Summary<'a> {
    /// Incidents by status and severity.
    incidents: Vec<IncidentCount<'a>>,
    /// Events by hour and class within the window, newest first.
    events: Vec<HourCount>,
    /// Findings likewise.
    findings: Vec<HourCount>,
    /// Scans that are queued or running.
    active_scans: Vec<ScanCount<'a>>,
}

/// What may be asked of the summary; read by [`get`], described here.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters in the OpenAPI document")]
pub(crate) struct SummaryParams {
    /// Hours that start before this time; now unless given.
    #[param(format = DateTime)]
    to: Option<String>,
    /// From the hour that this time lies in; an hour before `to` unless given.
    #[param(format = DateTime)]
    from: Option<String>,
}

/// Rows of events or findings by hour and class: some 30 days of a dozen classes.
const MAX_HOURS: usize = 10_000;

/// Incidents by severity and status, events and findings by hour and class, active scans.
#[utoipa::path(
    get,
    path = "/v1/summary",
    operation_id = "get_summary",
    tag = "counts",
    params(SummaryParams, ("If-None-Match" = Option<String>, Header, description = "ETag of an answer that is at hand.")),
    responses(
        (status = OK, description = "The summary.", body = Summary, headers(("ETag" = String, description = "Changes with the answer."))),
        (status = NOT_MODIFIED, description = "The answer is the one at hand."),
        (status = BAD_REQUEST, description = "Parameters that cannot be used.", body = Problem_, content_type = "application/problem+json"),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The database cannot be asked now.", body = Problem_, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Caller(analyst): Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut params = Params::parse(query.as_deref());
    let window = params.window();
    params.finish()?;

    let incidents =
        Select::new("summary_incidents", Table::IncidentCounts, "status, severity_id, sum(n)::bigint")
            .group_by("status, severity_id HAVING sum(n) > 0")
            .order_by("status, severity_id DESC");
    let hours = Select::new("summary_hours", Table::Counts, "stream, hour, class_uid, sum(n)::bigint")
        .and("hour >= ? AND hour < ?", [param(window.from.hour()), param(window.to)])
        .group_by("stream, hour, class_uid HAVING sum(n) > 0")
        .order_by("hour DESC, class_uid")
        .limit(MAX_HOURS + 1);
    let scans = Select::new("summary_scans", Table::ScanCounts, "state, sum(n)::bigint")
        .and("state IN ('queued', 'running')", [])
        .group_by("state HAVING sum(n) > 0")
        .order_by("state");

    let scoped = api.store.scoped(&analyst.org);
    let (incidents, hours, scans) =
        tokio::try_join!(scoped.fetch(incidents), scoped.fetch(hours), scoped.fetch(scans))?;
    if hours.len() > MAX_HOURS {
        return Err(Problem::parameters(vec![crate::problem::FieldError {
            field: "from".to_owned(),
            reason: format!("is so long ago that there are over {MAX_HOURS} counts; see /v1/counts"),
        }]));
    }
    let summary = assemble(&incidents, &hours, &scans);
    tagged(&headers, &summary.map_err(|error| unreadable("summary", &error))?)
}

fn assemble<'a>(incidents: &'a [Row], hours: &'a [Row], scans: &'a [Row]) -> Result<Summary<'a>, Error> {
    let (mut events, mut findings) = (Vec::new(), Vec::new());
    for row in hours {
        let mut columns = Columns::of(row);
        let stream: &str = columns.take()?;
        let count = HourCount { hour: columns.take()?, class_uid: columns.take()?, count: columns.take()? };
        if stream == "findings" { findings.push(count) } else { events.push(count) }
    }
    Ok(Summary {
        incidents: incidents.iter().map(IncidentCount::from_row).collect::<Result<_, _>>()?,
        events,
        findings,
        active_scans: scans.iter().map(ScanCount::from_row).collect::<Result<_, _>>()?,
    })
}
