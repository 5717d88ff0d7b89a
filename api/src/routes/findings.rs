//! Findings of scans.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::types::Json as JsonColumn;
use tokio_postgres::{Error, Row};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::events::{answer, at_least, place};
use super::walk;
use crate::Api;
use crate::auth::{Caller, Org};
use crate::cursor::EventPosition;
use crate::names::{self, SCAN_TYPES};
use crate::params::{Paging, Params};
use crate::problem::{Body as Problem_, Problem};
use crate::row::{Columns, Flags, FromRow, Id, Page};
use crate::select::{Select, Table};
use crate::time::Time;

/// One result of a scan.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Finding<'a> {
    /// Stream, raw partition, raw offset, index.
    #[schema(value_type = String, example = "findings/0/7/0")]
    pub(crate) id: Id<'a>,
    /// When it was found.
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// When it was taken in.
    #[schema(value_type = String, format = DateTime)]
    received_at: Time,
    /// The scan that found it.
    scan_id: Option<&'a str>,
    /// The scanner's own id of it.
    uid: &'a str,
    /// `code`, `document`, `database`, `image`, `website` or `ai_model`.
    scan_type: &'a str,
    /// 2002 vulnerability finding or 2004 detection finding.
    class_uid: i32,
    /// OCSF severity.
    severity_id: i32,
    /// Its name.
    severity: &'static str,
    /// `pii`, `secret`, `vulnerability`, `misconfiguration` …
    kind: &'a str,
    /// One line for a person.
    title: Option<&'a str>,
    /// What it was found in.
    resource: Option<&'a str>,
    /// 0 to 100.
    risk: Option<i32>,
    /// Host it concerns.
    host: Option<&'a str>,
    /// User it concerns.
    user: Option<&'a str>,
    /// The finding's own message, else the original line.
    message: Option<&'a str>,
    /// Asset labels and threat list hits.
    labels: Vec<&'a str>,
    /// The other original fields.
    #[schema(value_type = Option<Object>)]
    attributes: Option<&'a RawValue>,
    /// As an event's.
    #[schema(value_type = Vec<String>)]
    flags: Flags,
    /// Of a push with an Idempotency-Key: shared with its retries.
    event_uid: Option<Uuid>,
}

const COLUMNS: &str = "time, kpart, koffset, kindex, received_at, scan_id, uid, scan_type, class_uid, severity_id, kind, \
                       title, resource, risk, host, \"user\", message, labels, attributes, flags, event_uid";

impl<'a> FromRow<'a> for Finding<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        let time = columns.take()?;
        let id = Id {
            stream: "findings",
            partition: columns.take()?,
            offset: columns.take()?,
            index: columns.take()?,
        };
        let received_at = columns.take()?;
        let scan_id = columns.take()?;
        let uid = columns.take()?;
        let scan_type = columns.take()?;
        let class_uid = columns.take()?;
        let severity_id = columns.take()?;
        Ok(Self {
            id,
            time,
            received_at,
            scan_id,
            uid,
            scan_type,
            class_uid,
            severity_id,
            severity: names::severity(severity_id),
            kind: columns.take()?,
            title: columns.take()?,
            resource: columns.take()?,
            risk: columns.take()?,
            host: columns.take()?,
            user: columns.take()?,
            message: columns.take()?,
            labels: columns.take::<Option<_>>()?.unwrap_or_default(),
            attributes: columns.take::<Option<JsonColumn<_>>>()?.map(|json| json.0),
            flags: Flags(columns.take()?),
            event_uid: columns.take()?,
        })
    }
}

/// What all findings are selected by.
pub(crate) fn select(name: &'static str) -> Select {
    Select::new(name, Table::Findings, COLUMNS)
}

/// What may be asked of findings; read by [`Filter::parse`], described here.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters in the OpenAPI document")]
pub(crate) struct FindingParams {
    /// `severity_id` at least this, by name or number; `other` is left out.
    #[param(example = "high")]
    severity: Option<String>,
    /// `class_uid`, or several with commas.
    #[param(example = "2004")]
    class: Option<String>,
    /// Of this scan.
    scan_id: Option<String>,
    /// Of this type of scan, or several with commas.
    #[param(example = "database")]
    scan_type: Option<String>,
    /// Exactly this kind.
    #[param(example = "pii")]
    kind: Option<String>,
    /// Exactly this user.
    user: Option<String>,
    /// Exactly this host.
    host: Option<String>,
    /// Until this time, exclusive; now unless given.
    #[param(format = DateTime)]
    to: Option<String>,
    /// From this time; an hour before `to` unless given.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Rows of a page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What is asked of findings.
#[derive(Debug)]
pub(crate) struct Filter {
    severity: Option<i32>,
    classes: Option<Vec<i32>>,
    scan_id: Option<String>,
    scan_types: Option<Vec<String>>,
    kind: Option<String>,
    user: Option<String>,
    host: Option<String>,
    paging: Paging<EventPosition>,
}

impl Filter {
    pub(crate) fn parse(params: &mut Params, org: &Org) -> Self {
        Self {
            severity: params.severity(),
            classes: params.classes(),
            scan_id: params.text("scan_id"),
            scan_types: params.choices("scan_type", SCAN_TYPES),
            kind: params.text("kind"),
            user: params.text("user"),
            host: params.text("host"),
            paging: params.paging(org),
        }
    }

    fn select(&self) -> Select {
        at_least(select("findings_page"), self.severity)
            .and_if("class_uid = ANY (?)", self.classes.clone())
            .and_if("scan_id = ?", self.scan_id.clone())
            .and_if("scan_type = ANY (?)", self.scan_types.clone())
            .and_if("kind = ?", self.kind.clone())
            .and_if("\"user\" = ?", self.user.clone())
            .and_if("host = ?", self.host.clone())
    }
}

/// Findings, newest first.
#[utoipa::path(
    get,
    path = "/v1/findings",
    operation_id = "list_findings",
    tag = "findings",
    params(FindingParams),
    responses(
        (status = OK, description = "A page of findings.", body = Page<Finding>),
        (status = BAD_REQUEST, description = "Parameters that cannot be used.", body = Problem_, content_type = "application/problem+json"),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The database cannot be asked now.", body = Problem_, content_type = "application/problem+json"),
        (status = GATEWAY_TIMEOUT, description = "The query took too long.", body = Problem_, content_type = "application/problem+json"),
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
    let scoped = api.store.scoped(&analyst.org);
    let (rows, next_cursor) = walk::page(&scoped, &filter.paging, || filter.select(), place).await?;
    answer::<Finding<'_>>("findings_page", &rows, next_cursor)
}
