//! Services that start before what they need.

use tidewatch_dev::{
    Backends, Deployment, DeploymentOptions, Kafka, KafkaOptions, Layout, Postgres, PostgresOptions, Scratch,
    Service,
};
use tidewatch_tests::until;

#[tokio::test]
async fn services_started_before_kafka_and_postgres_wait_and_say_so() {
    let layout = Layout::find().unwrap();
    let shared = Backends::from_environment().unwrap();
    let scratch = Scratch::create(&layout.state().join("run")).unwrap();
    let path = |name: &str| scratch.path().join(name);
    let kafka_options =
        KafkaOptions::new(path("kafka"), layout.kafka_jars().unwrap(), path("kafka.log")).unwrap();
    let postgres_options = PostgresOptions::new(path("postgres"), path("postgres.log")).unwrap();
    let kafka = Kafka::start(kafka_options.clone()).await.unwrap();
    let postgres = Postgres::start(postgres_options.clone()).await.unwrap();
    let backends = Backends {
        kafka_brokers: kafka.brokers(),
        superuser_url: postgres.superuser_url(),
        binaries: shared.binaries,
        logs: shared.logs,
    };
    let mut deployment = Deployment::prepare(DeploymentOptions::for_test(backends).unwrap()).await.unwrap();
    kafka.stop().await.unwrap();
    postgres.stop().await.unwrap();

    let services = &mut deployment.services;
    let names = Service::ALL.map(|service| services.spawn(service).unwrap());
    for name in &names {
        let needs_kafka = name != "partitions";
        let needs_postgres = matches!(name.as_str(), "ingest" | "api" | "partitions" | "sink");
        until(&format!("{name} says what it waits for"), async || {
            let readiness = services.readiness(name).await.ok()?;
            let missing = readiness.missing();
            (!readiness.ready
                && (!needs_kafka || missing.contains("kafka"))
                && (!needs_postgres || missing.contains("postgres")))
            .then_some(())
        })
        .await;
    }

    let _kafka = Kafka::start(kafka_options).await.unwrap();
    let _postgres = Postgres::start(postgres_options).await.unwrap();
    for name in &names {
        services.until_ready(name).await.unwrap_or_else(|error| panic!("{error:#}"));
    }
    let client = reqwest::Client::new();
    let answer = client
        .post(format!("{}/v1/events", services.ingest_url()))
        .bearer_auth(&deployment.tokens().ingest)
        .header("content-type", "text/plain")
        .body("here at last\n")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let events = format!("{}/v1/events", deployment.services.api_url());
    until("the line is on a page", async || {
        let page = client.get(&events).bearer_auth(&deployment.tokens().analyst).send().await.ok()?;
        page.text().await.ok()?.contains("here at last").then_some(())
    })
    .await;
}
