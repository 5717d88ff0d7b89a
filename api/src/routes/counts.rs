//! Counts of events and findings by hour, as the sink keeps them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemas::Stream;
use serde::Serialize;
use tokio_postgres::{Error, Row};
use utoipa::{IntoParams, ToSchema};
use xxhash_rust::xxh3::xxh3_128;

use super::events::at_least;
use crate::Api;
use crate::auth::{Caller, Org};
use crate::cursor::{self, CountPosition};
use crate::names;
use crate::params::{Paging, Params};
use crate::problem::{Body as Problem_, Problem};
use crate::row::{Columns, FromRow, Page};
use crate::select::{Select, Table, param};
use crate::store::unreadable;
use crate::time::Time;

/// How many there were in an hour.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Count<'a> {
    /// The hour's start.
    #[schema(value_type = String, format = DateTime)]
    hour: Time,
    /// `events` or `findings`.
    stream: &'a str,
    /// OCSF class.
    class_uid: i32,
    /// OCSF severity.
    severity_id: i32,
    /// Its name.
    severity: &'static str,
    /// Exactly so many rows.
    count: i64,
}

impl<'a> FromRow<'a> for Count<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        let hour = columns.take()?;
        let stream = columns.take()?;
        let class_uid = columns.take()?;
        let severity_id = columns.take()?;
        let severity = names::severity(severity_id);
        Ok(Self { hour, stream, class_uid, severity_id, severity, count: columns.take()? })
    }
}

impl Count<'_> {
    fn place(&self) -> CountPosition {
        CountPosition {
            hour: self.hour,
            stream: self.stream.to_owned(),
            class_uid: self.class_uid,
            severity_id: self.severity_id,
        }
    }
}

/// What may be asked of counts; read by [`Filter::parse`], described here.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters in the OpenAPI document")]
pub(crate) struct CountParams {
    /// `events` or `findings`; both unless given.
    #[param(example = "events")]
    stream: Option<String>,
    /// `severity_id` at least this, by name or number; `other` is left out.
    #[param(example = "high")]
    severity: Option<String>,
    /// `class_uid`, or several with commas.
    #[param(example = "3002")]
    class: Option<String>,
    /// Hours that start before this time; now unless given.
    #[param(format = DateTime)]
    to: Option<String>,
    /// From the hour that this time lies in; an hour before `to` unless given.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Rows of a page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What is asked of counts.
#[derive(Debug)]
pub(crate) struct Filter {
    stream: Option<Stream>,
    severity: Option<i32>,
    classes: Option<Vec<i32>>,
    paging: Paging<CountPosition>,
}

impl Filter {
    pub(crate) fn parse(params: &mut Params, org: &Org) -> Self {
        Self {
            stream: params.stream(),
            severity: params.severity(),
            classes: params.classes(),
            paging: params.paging(org),
        }
    }

    fn select(&self) -> Select {
        let window = self.paging.window;
        let columns = "hour, stream, class_uid, severity_id, sum(n)::bigint";
        let mut select = Select::new("counts_page", Table::Counts, columns)
            .and("hour >= ? AND hour < ?", [param(window.from.hour()), param(window.to)])
            .and_if("stream = ?", self.stream.map(|stream| stream.name().to_owned()))
            .and_if("class_uid = ANY (?)", self.classes.clone());
        select = at_least(select, self.severity);
        if let Some(after) = &self.paging.after {
            let CountPosition { hour, stream, class_uid, severity_id } = after.clone();
            select = select.and(
                "(hour, stream, class_uid, severity_id) < (?, ?, ?, ?)",
                [param(hour), param(stream), param(class_uid), param(severity_id)],
            );
        }
        select
            .group_by("hour, stream, class_uid, severity_id")
            .order_by("hour DESC, stream DESC, class_uid DESC, severity_id DESC")
            .limit(usize::from(self.paging.limit) + 1)
    }
}

/// Counts by hour, stream, class and severity, newest hour first.
#[utoipa::path(
    get,
    path = "/v1/counts",
    operation_id = "list_counts",
    tag = "counts",
    params(CountParams, ("If-None-Match" = Option<String>, Header, description = "ETag of an answer that is at hand.")),
    responses(
        (status = OK, description = "A page of counts.", body = Page<Count>, headers(("ETag" = String, description = "Changes with the answer."))),
        (status = NOT_MODIFIED, description = "The answer is the one at hand."),
        (status = BAD_REQUEST, description = "Parameters that cannot be used.", body = Problem_, content_type = "application/problem+json"),
        (status = UNAUTHORIZED, description = "No valid token.", body = Problem_, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "A token for pushing.", body = Problem_, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "The database cannot be asked now.", body = Problem_, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Caller(analyst): Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut params = Params::parse(query.as_deref());
    let filter = Filter::parse(&mut params, &analyst.org);
    params.finish()?;
    let rows = api.store.scoped(&analyst.org).fetch(filter.select()).await?;
    let items: Result<Vec<Count<'_>>, Error> = rows.iter().map(Count::from_row).collect();
    let mut items = items.map_err(|error| unreadable("counts_page", &error))?;
    let paging = &filter.paging;
    let mut next_cursor = None;
    if items.len() > usize::from(paging.limit) {
        items.truncate(usize::from(paging.limit));
        next_cursor =
            items.last().map(|last| cursor::encode(paging.window.from, &last.place(), paging.binding));
    }
    tagged(&headers, &Page { items, next_cursor })
}

/// A body with the ETag of its content, or 304 when the client has it.
///
/// The tag is weak: whether the body is compressed makes no difference to it.
///
/// # Errors
/// 500: a body that cannot be written.
pub(crate) fn tagged(headers: &HeaderMap, body: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(body).map_err(|error| {
        tracing::error!("cannot write an answer: {error}");
        Problem::internal()
    })?;
    let tag = format!("W/\"{:032x}\"", xxh3_128(&body));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let matches = known.flat_map(|value| value.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.trim_start_matches("W/") == tag.trim_start_matches("W/")
    });
    let shared = [(header::ETAG, tag), (header::CACHE_CONTROL, "private, no-cache".to_owned())];
    if matches {
        return Ok((StatusCode::NOT_MODIFIED, shared).into_response());
    }
    let json = HeaderValue::from_static("application/json");
    Ok((shared, [(header::CONTENT_TYPE, json)], Bytes::from(body)).into_response())
}
