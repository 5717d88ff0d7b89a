//! A database of one test alone, with tables and the month partitions around now.

use postgres::{Client, DatabaseUrl, connect};
use uuid::Uuid;

/// Makes a database; its URL and a connection of a superuser.
pub async fn database() -> (DatabaseUrl, Client) {
    let server = std::env::var("TIDEWATCH_TEST_DATABASE_URL").expect("run through make test");
    let server: DatabaseUrl = server.parse().unwrap();
    let name = format!("t_{}", Uuid::new_v4().simple());
    connect(&server).await.unwrap().batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let url = server.with_database(&name);
    let client = connect(&url).await.unwrap();
    for file in migrations() {
        client.batch_execute(&std::fs::read_to_string(file).unwrap()).await.unwrap();
    }
    client.batch_execute(PARTITIONS).await.unwrap();
    (url, client)
}

fn migrations() -> Vec<std::path::PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/migrations");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let version = |path: &std::path::Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name[1..].split("__").next().unwrap().parse::<u32>().unwrap()
    };
    files.sort_by_key(|path| version(path));
    files
}

const PARTITIONS: &str = "
    DO $$
    DECLARE
        parent text;
        first timestamptz;
    BEGIN
        FOREACH parent IN ARRAY ARRAY['events', 'findings', 'quarantine', 'audit_log'] LOOP
            FOR month IN -2..1 LOOP
                first := date_trunc('month', now(), 'UTC') + make_interval(months => month);
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                    parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM'), parent, first,
                    date_trunc('month', now(), 'UTC') + make_interval(months => month + 1));
            END LOOP;
        END LOOP;
    END $$";
