//! The routes and their description.

#[path = "../tests/support/database.rs"]
mod database;

use std::collections::BTreeSet;

use postgres::PostgresArgs;

use utoipa::openapi::path::ParameterIn;
use utoipa::{IntoParams, ToSchema as _};

use crate::auth::Org;
use crate::params::Params;
use crate::routes::{self, counts, events, findings, incidents, scans, summary, walk};
use crate::select::{Select, param};
use crate::slices::Slices;
use crate::store::Store;
use crate::time::Time;

fn described<P: IntoParams>() -> BTreeSet<String> {
    P::into_params(|| Some(ParameterIn::Query)).into_iter().map(|parameter| parameter.name).collect()
}

fn taken(take: impl FnOnce(&mut Params, &Org)) -> BTreeSet<String> {
    let mut params = Params::parse(None);
    take(&mut params, &Org::for_test("demo"));
    params.taken().iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_parameters_that_are_described_are_those_that_are_read() {
    assert_eq!(
        described::<events::EventParams>(),
        taken(|params, org| drop(events::Filter::parse(params, org)))
    );
    assert_eq!(
        described::<findings::FindingParams>(),
        taken(|params, org| drop(findings::Filter::parse(params, org)))
    );
    assert_eq!(
        described::<scans::ScanParams>(),
        taken(|params, org| drop(scans::Filter::parse(params, org)))
    );
    assert_eq!(
        described::<incidents::IncidentParams>(),
        taken(|params, org| drop(incidents::Filter::parse(params, org)))
    );
    assert_eq!(
        described::<counts::CountParams>(),
        taken(|params, org| drop(counts::Filter::parse(params, org)))
    );
    let window = taken(|params, _| {
        params.window();
    });
    assert_eq!(described::<summary::SummaryParams>(), window);
}

/// Every `$ref` of the document.
fn references(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(target) if name == "$ref" => drop(found.insert(target.clone())),
                    _ => references(value, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_document_describes_every_route_and_refers_to_nothing_it_lacks() {
    let (_, document) = routes::router();
    let document: serde_json::Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    let operations: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    let expected = [
        "get /v1/counts",
        "get /v1/events",
        "get /v1/findings",
        "get /v1/incidents",
        "get /v1/incidents/{id}",
        "get /v1/scans",
        "get /v1/summary",
        "patch /v1/incidents/{id}",
        "post /v1/incidents",
    ];
    assert_eq!(operations, expected.map(str::to_owned).into());
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 8, "{found:?}");
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} is not there");
    }
    assert!(!events::Event::name().is_empty() && !crate::openapi::base().info.title.is_empty());
}

/// Blocks that a query touches, in the cache or not.
async fn blocks(store: &Store, org: &Org, select: Select) -> i64 {
    let plan = store.scoped(org).explain(select).await.unwrap();
    let node = &plan[0]["Plan"];
    node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test]
async fn a_page_and_the_evidence_of_an_incident_touch_few_blocks_of_a_large_table() {
    let (url, db) = database::database().await;
    // Five minutes of 1,000 events a second.
    db.batch_execute(
        "INSERT INTO events (time, received_at, org, class_uid, activity_id, severity_id, source_type, message, repeat, flags,
                             kpart, koffset, kindex)
         SELECT now() - interval '5 minutes' + n * interval '1 ms', now(), 'demo', 0, 0, 1, 'test', repeat('x', 100), 1, 0,
                0, n, 0 FROM generate_series(1, 300000) AS n;
         SELECT brin_summarize_new_values(indexrelid) FROM pg_index JOIN pg_inherits ON inhrelid = indrelid
         WHERE inhparent = 'events'::regclass",
    )
    .await
    .unwrap();
    let pages = "SELECT sum(pg_relation_size(inhrelid) / 8192)::bigint FROM pg_inherits WHERE inhparent = 'events'::regclass";
    let pages: i64 = db.query_one(pages, &[]).await.unwrap().get(0);
    assert!(pages > 5_000, "{pages}");

    let store = Store::new(&PostgresArgs::new(url)).unwrap();
    let org = Org::for_test("demo");
    let mut params = Params::parse(Some("severity=informational"));
    let filter = events::Filter::parse(&mut params, &org);
    let now = Time::now();
    let slice = Slices::new(now.plus(-3600 * Time::SECOND), now.plus(-30 * Time::SECOND)).next().unwrap();
    let touched = blocks(&store, &org, walk::sliced(filter.select(), slice, None, 101)).await;
    assert!((10..150).contains(&touched), "{touched} of {pages}");

    let minute = 60 * Time::SECOND;
    let at = |minutes: i64| (now.plus(-minutes * minute), now.plus(-minutes * minute + 1000));
    let evidence = events::select("evidence_events").and_within(vec![at(1), at(2), at(4)]).and(
        "(kpart, koffset, kindex) IN (SELECT * FROM unnest(?, ?, ?))",
        [param(vec![0, 0]), param(vec![60_000_i64, 180_000]), param(vec![0, 0])],
    );
    let touched = blocks(&store, &org, evidence).await;
    assert!((1..400).contains(&touched), "{touched} of {pages}");
}
