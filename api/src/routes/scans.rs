//! Scans and how far they are.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::types::Json as JsonColumn;
use tokio_postgres::{Error, Row};
use utoipa::{IntoParams, ToSchema};

use super::events::answer;
use crate::Api;
use crate::auth::{Caller, Org};
use crate::cursor::{self, ScanPosition};
use crate::names::{SCAN_STATES, SCAN_TYPES};
use crate::params::{Paging, Params};
use crate::problem::{Body as Problem_, Problem};
use crate::row::{Columns, FromRow, Page};
use crate::select::{Select, Table, param};
use crate::store::unreadable;
use crate::time::Time;

/// A scan in its latest state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Scan<'a> {
    /// The scan.
    scan_id: &'a str,
    /// When its first state was seen.
    #[schema(value_type = String, format = DateTime)]
    started_at: Time,
    /// When it was in this state.
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// `code`, `document`, `database`, `image`, `website` or `ai_model`.
    scan_type: &'a str,
    /// `queued`, `running`, `completed`, `failed` or `cancelled`.
    state: &'a str,
    /// 0 to 100.
    progress: Option<i32>,
    /// Place in the scanner's queue, from 0.
    queue_position: Option<i32>,
    /// Milliseconds so far.
    duration_ms: Option<i64>,
    /// What is scanned.
    target: Option<&'a str>,
    /// The scanner's own message.
    message: Option<&'a str>,
    /// The other original fields.
    #[schema(value_type = Option<Object>)]
    attributes: Option<&'a RawValue>,
}

const COLUMNS: &str = "started_at, scan_id, time, scan_type, state, progress, queue_position, duration_ms, target, \
                       message, attributes";

impl<'a> FromRow<'a> for Scan<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        Ok(Self {
            started_at: columns.take()?,
            scan_id: columns.take()?,
            time: columns.take()?,
            scan_type: columns.take()?,
            state: columns.take()?,
            progress: columns.take()?,
            queue_position: columns.take()?,
            duration_ms: columns.take()?,
            target: columns.take()?,
            message: columns.take()?,
            attributes: columns.take::<Option<JsonColumn<_>>>()?.map(|json| json.0),
        })
    }
}

fn place(row: &Row) -> Result<ScanPosition, Problem> {
    let read = || {
        let mut columns = Columns::of(row);
        Ok(ScanPosition { started_at: columns.take()?, scan_id: columns.take()? })
    };
    read().map_err(|error: Error| unreadable("scans_page", &error))
}

/// What may be asked of scans; read by [`Filter::parse`], described here.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters in the OpenAPI document")]
pub(crate) struct ScanParams {
    /// In this state, or several with commas.
    #[param(example = "queued,running")]
    status: Option<String>,
    /// Of this type, or several with commas.
    #[param(example = "database")]
    scan_type: Option<String>,
    /// This scan.
    scan_id: Option<String>,
    /// Started before this time; now unless given.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Started at this time or later; an hour before `to` unless given.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Rows of a page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What is asked of scans.
#[derive(Debug)]
pub(crate) struct Filter {
    states: Option<Vec<String>>,
    scan_types: Option<Vec<String>>,
    scan_id: Option<String>,
    paging: Paging<ScanPosition>,
}

impl Filter {
    pub(crate) fn parse(params: &mut Params, org: &Org) -> Self {
        Self {
            states: params.choices("status", SCAN_STATES),
            scan_types: params.choices("scan_type", SCAN_TYPES),
            scan_id: params.text("scan_id"),
            paging: params.paging(org),
        }
    }

    fn select(&self) -> Select {
        let window = self.paging.window;
        let mut select = Select::new("scans_page", Table::Scans, COLUMNS)
            .and("started_at >= ?", [param(window.from)])
            .and_if("state = ANY (?)", self.states.clone())
            .and_if("scan_type = ANY (?)", self.scan_types.clone())
            .and_if("scan_id = ?", self.scan_id.clone());
        select = match &self.paging.after {
            Some(after) => select.and(
                "(started_at, scan_id) < (?, ?)",
                [param(after.started_at), param(after.scan_id.clone())],
            ),
            None => select.and("started_at < ?", [param(window.to)]),
        };
        select.order_by("started_at DESC, scan_id DESC").limit(usize::from(self.paging.limit) + 1)
    }
}

/// Scans, those that started last first.
#[utoipa::path(
    get,
    path = "/v1/scans",
    operation_id = "list_scans",
    tag = "findings",
    params(ScanParams),
    responses(
        (status = OK, description = "A page of scans.", body = Page<Scan>),
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
    answer::<Scan<'_>>("scans_page", &rows, next_cursor)
}
