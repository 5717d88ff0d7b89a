//! Events.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::types::Json as JsonColumn;
use tokio_postgres::{Error, Row};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::walk;
use crate::Api;
use crate::auth::{Caller, Org};
use crate::cursor::EventPosition;
use crate::names::{self, MAX_SEVERITY};
use crate::params::{Paging, Params};
use crate::problem::{Body as Problem_, Problem};
use crate::row::{Columns, Flags, FromRow, Id, Page};
use crate::select::{Select, Table, param};
use crate::store::unreadable;
use crate::time::Time;

/// An event, OCSF-shaped.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Event<'a> {
    /// Stream, raw partition, raw offset, index.
    #[schema(value_type = String, example = "events/3/1042/17")]
    pub(crate) id: Id<'a>,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// When it was taken in.
    #[schema(value_type = String, format = DateTime)]
    received_at: Time,
    /// OCSF class: 3002 authentication, 4001 network, 4002 http, 1007 process, 0 base …
    class_uid: i32,
    /// OCSF activity within the class.
    activity_id: i32,
    /// OCSF severity.
    severity_id: i32,
    /// Its name.
    #[schema(example = "high")]
    severity: &'static str,
    /// Host it happened on.
    host: Option<&'a str>,
    /// User it concerns.
    user: Option<&'a str>,
    /// Where it came from.
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    src_ip: Option<IpAddr>,
    /// Where it went.
    #[schema(value_type = Option<String>)]
    dst_ip: Option<IpAddr>,
    /// Port that it came from.
    src_port: Option<i32>,
    /// Port that it went to.
    dst_port: Option<i32>,
    /// `sshd`, `sudo`, `syslog`, `web_access`, `windows`, `json` …
    source_type: &'a str,
    /// The event's own message, else the original line.
    message: Option<&'a str>,
    /// Occurrences that it stands for.
    repeat: i32,
    /// Asset labels and threat list hits.
    labels: Vec<&'a str>,
    /// The other original fields.
    #[schema(value_type = Option<Object>)]
    attributes: Option<&'a RawValue>,
    /// `time_clamped`, `time_assumed`, `invalid_utf8`, `threat`, `backfill`.
    #[schema(value_type = Vec<String>)]
    flags: Flags,
    /// Of a push with an Idempotency-Key: shared with its retries.
    event_uid: Option<Uuid>,
}

/// Identity and time come first: [`place`] reads them for findings too.
const COLUMNS: &str = "time, kpart, koffset, kindex, received_at, class_uid, activity_id, severity_id, host, \"user\", \
                       src_ip, dst_ip, src_port, dst_port, source_type, message, repeat, labels, attributes, flags, \
                       event_uid";

impl<'a> FromRow<'a> for Event<'a> {
    fn from_row(row: &'a Row) -> Result<Self, Error> {
        let mut columns = Columns::of(row);
        let time = columns.take()?;
        let id = Id {
            stream: "events",
            partition: columns.take()?,
            offset: columns.take()?,
            index: columns.take()?,
        };
        let received_at = columns.take()?;
        let class_uid = columns.take()?;
        let activity_id = columns.take()?;
        let severity_id = columns.take()?;
        Ok(Self {
            id,
            time,
            received_at,
            class_uid,
            activity_id,
            severity_id,
            severity: names::severity(severity_id),
            host: columns.take()?,
            user: columns.take()?,
            src_ip: columns.take()?,
            dst_ip: columns.take()?,
            src_port: columns.take()?,
            dst_port: columns.take()?,
            source_type: columns.take()?,
            message: columns.take()?,
            repeat: columns.take()?,
            labels: columns.take::<Option<_>>()?.unwrap_or_default(),
            attributes: columns.take::<Option<JsonColumn<_>>>()?.map(|json| json.0),
            flags: Flags(columns.take()?),
            event_uid: columns.take()?,
        })
    }
}

/// Where a row stands in the walk.
///
/// # Errors
/// 500: a row without these columns.
pub(crate) fn place(row: &Row) -> Result<EventPosition, Problem> {
    let read = || {
        let mut columns = Columns::of(row);
        Ok(EventPosition {
            time: columns.take()?,
            partition: columns.take()?,
            offset: columns.take()?,
            index: columns.take()?,
        })
    };
    read().map_err(|error: Error| unreadable("place", &error))
}

/// What all events are selected by.
pub(crate) fn select(name: &'static str) -> Select {
    Select::new(name, Table::Events, COLUMNS)
}

/// What may be asked of events; read by [`Filter::parse`], described here.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters in the OpenAPI document")]
pub(crate) struct EventParams {
    /// `severity_id` at least this, by name or number; `other` is left out.
    #[param(example = "high")]
    severity: Option<String>,
    /// `class_uid`, or several with commas.
    #[param(example = "3002,4001")]
    class: Option<String>,
    /// Source address, or a network.
    #[param(example = "203.0.113.0/24")]
    src_ip: Option<String>,
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

/// What is asked of events.
#[derive(Debug)]
pub(crate) struct Filter {
    severity: Option<i32>,
    classes: Option<Vec<i32>>,
    src_ip: Option<IpNet>,
    user: Option<String>,
    host: Option<String>,
    pub(crate) paging: Paging<EventPosition>,
}

impl Filter {
    pub(crate) fn parse(params: &mut Params, org: &Org) -> Self {
        Self {
            severity: params.severity(),
            classes: params.classes(),
            src_ip: params.network("src_ip"),
            user: params.text("user"),
            host: params.text("host"),
            paging: params.paging(org),
        }
    }

    pub(crate) fn select(&self) -> Select {
        at_least(select("events_page"), self.severity)
            .and_if("class_uid = ANY (?)", self.classes.clone())
            .and_if("src_ip <<= ?::inet", self.src_ip.map(|network| network.to_string()))
            .and_if("\"user\" = ?", self.user.clone())
            .and_if("host = ?", self.host.clone())
    }
}

/// Adds a least severity. 99 (other) is above none.
pub(crate) fn at_least(select: Select, severity: Option<i32>) -> Select {
    match severity {
        Some(least) => select.and("severity_id BETWEEN ? AND ?", [param(least), param(MAX_SEVERITY)]),
        None => select,
    }
}

/// Events, newest first.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "list_events",
    tag = "events",
    params(EventParams),
    responses(
        (status = OK, description = "A page of events.", body = Page<Event>),
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
    answer::<Event<'_>>("events_page", &rows, next_cursor)
}

/// A page of rows as JSON.
///
/// # Errors
/// 500: rows that are not what they should be.
pub(crate) fn answer<'a, T: FromRow<'a> + Serialize>(
    query: &'static str,
    rows: &'a [Row],
    next_cursor: Option<String>,
) -> Result<Response, Problem> {
    let items: Result<Vec<T>, Error> = rows.iter().map(T::from_row).collect();
    let items = items.map_err(|error| unreadable(query, &error))?;
    Ok(Json(Page { items, next_cursor }).into_response())
}
