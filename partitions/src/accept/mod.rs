//! The operator's way out when a reader stops because Kafka lost something: its position is moved as little as lets it go on,
//! and who accepted what is written down.
//!
//! The sink's position is in Postgres and is moved there, under a new epoch. enrich has no Postgres: its position, and the
//! decision beside it, are the committed offset of its group.

mod command;
mod decide;
mod look;
mod show;
mod situation;
mod target;

use anyhow::{Context as _, anyhow, bail};
use kafka::{Admin, Committed, KafkaArgs};
use postgres::Client;
use schemas::Stream;
use schemas::start::{Accepted, Decision, RawLog};
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::audit::{self, Entry};
use crate::place::Place;

pub(crate) use command::{Arguments, run};
pub use decide::{Asked, Refusal};
use decide::{Point, RawMove, SinkMove, describe, describe_raw, raw_move, sink_move};
use look::Kafka;
use situation::Held;
pub use target::{InvalidTarget, Target};

/// `sink_accept`: the partition is not where the move was planned from.
const MOVED: &str = "TW004";

/// What became of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// As it was named: `events/2`, `events.raw/2`.
    pub partition: String,
    /// `accepted_gap` or `accepted_new_topic`; none where nothing had to be moved.
    pub action: Option<&'static str>,
    /// Whether it was only shown.
    pub dry_run: bool,
    /// What was found.
    pub found: String,
    /// Next offset before and after, of a partition that the sink reads.
    pub offsets: Option<(i64, i64)>,
    /// Next raw offset before and after; none before where it was one of another topic.
    pub raw_offsets: Option<(Option<i64>, i64)>,
    /// The raw topic after, where it is another one than before.
    pub topic_id: Option<Uuid>,
    /// Offsets that were never read and are gone.
    pub skipped_offsets: i64,
    /// Raw offsets that are not stored and will not be.
    pub skipped_raw_offsets: i64,
    /// What should be known besides.
    pub note: Option<String>,
    /// What to do now, and what will happen.
    pub next: Option<String>,
}

/// What an operator asks for.
#[derive(Debug)]
pub struct Request<'a> {
    /// Names of topics and groups.
    pub kafka: &'a KafkaArgs,
    /// Asks and tells Kafka.
    pub admin: &'a Admin,
    /// What is accepted.
    pub asked: Asked,
    /// Where.
    pub targets: &'a [Target],
    /// By whom.
    pub actor: &'a str,
    /// Show it, do nothing.
    pub dry_run: bool,
}

/// Accepts what is asked for in all of the partitions, or in none: each is looked at, and refused where that is not what is
/// wrong with it, before the first is moved.
///
/// # Errors
/// A [`Refusal`]; a partition that is not there; enrich is running where its position is to be moved; what Kafka or Postgres
/// refuse; no partition of audit_log for this month.
pub async fn accept(client: &mut Client, request: &Request<'_>) -> anyhow::Result<Vec<Outcome>> {
    let mut plans = Vec::with_capacity(request.targets.len());
    for target in request.targets {
        plans.push(request.plan(client, *target).await.context("nothing was moved")?);
    }
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(plans.len());
    for (mut outcome, plan) in plans {
        if let Some(plan) = plan.filter(|_| !request.dry_run) {
            request.make(client, &plan).await.with_context(|| {
                let moved = outcomes.iter().filter(|outcome| outcome.action.is_some());
                let moved: Vec<&str> = moved.map(|outcome| outcome.partition.as_str()).collect();
                let before = if moved.is_empty() { "nothing".to_owned() } else { moved.join(", ") };
                format!("moving {} failed; {before} was moved before", outcome.partition)
            })?;
        }
        outcome.dry_run = request.dry_run;
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// What is to be done in one partition.
enum Plan {
    Sink { held: Held, moved: SinkMove, raw: Option<RawLog> },
    Raw { target: Target, stream: Stream, moved: RawMove },
}

impl Request<'_> {
    fn kafka(&self) -> Kafka<'_> {
        Kafka { args: self.kafka, admin: self.admin }
    }

    async fn plan(&self, client: &Client, target: Target) -> anyhow::Result<(Outcome, Option<Plan>)> {
        self.kafka().exists(target).await?;
        match target {
            Target::Sink(place) => self.plan_sink(client, place).await,
            Target::Raw { stream, partition } => self.plan_raw(target, stream, partition).await,
        }
    }

    async fn plan_sink(&self, client: &Client, place: Place) -> anyhow::Result<(Outcome, Option<Plan>)> {
        let target = Target::Sink(place);
        let Some(held) = look::held(client, place).await? else {
            return Ok((nothing(target, "nothing is wrong: the sink has never read it".to_owned()), None));
        };
        let kafka = self.kafka();
        let (log, situation) = kafka.situation(&held, self.asked == Asked::NewTopic).await?;
        let upstream = match place.topic.stream() {
            Some(stream) => kafka.upstream(stream, place.partition).await?,
            None => decide::Upstream { raw: None, committed: None },
        };
        let found = describe(&held, log, &situation);
        let Some(moved) = sink_move(self.asked, &held, log, &situation, &upstream)? else {
            return Ok((nothing(target, found), None));
        };
        let SinkMove { to, skipped, skipped_raw, .. } = moved;
        let outcome = Outcome {
            action: Some(self.asked.action()),
            offsets: Some((held.next_offset, to.offset)),
            raw_offsets: to.source.map(|source| (held.next_source, source)),
            topic_id: to.topic_id.filter(|id| held.topic_id != Some(*id)),
            skipped_offsets: skipped,
            skipped_raw_offsets: skipped_raw,
            note: show::note(&held, &moved, upstream.raw.as_ref()),
            next: Some(show::next_of_sink(&held, &situation, &moved)),
            ..nothing(target, found)
        };
        Ok((outcome, Some(Plan::Sink { held, moved, raw: upstream.raw })))
    }

    async fn plan_raw(
        &self,
        target: Target,
        stream: Stream,
        partition: i32,
    ) -> anyhow::Result<(Outcome, Option<Plan>)> {
        let kafka = self.kafka();
        let raw = kafka.raw(stream, partition).await?;
        let raw = raw.ok_or_else(|| anyhow!("{target}: the topic has gone meanwhile"))?;
        let start = kafka.start(stream, partition, &raw).await?;
        let found = describe_raw(&raw, &start);
        let Some(moved) = raw_move(self.asked, target, &raw, &start)? else {
            return Ok((nothing(target, found), None));
        };
        let outcome = Outcome {
            action: Some(self.asked.action()),
            raw_offsets: Some((moved.from, moved.to)),
            topic_id: moved.from.is_none().then_some(raw.topic_id),
            skipped_raw_offsets: moved.skipped,
            next: Some(show::next_of_raw(self.asked, stream, partition)),
            ..nothing(target, found)
        };
        Ok((outcome, Some(Plan::Raw { target, stream, moved })))
    }

    /// Moves, and writes it down, in one transaction. What Kafka is told is told last: if the transaction then fails, enrich
    /// goes on as was decided and only the record of it is missing, which the error says.
    async fn make(&self, client: &mut Client, plan: &Plan) -> anyhow::Result<()> {
        let transaction = client.transaction().await?;
        match plan {
            Plan::Sink { held, moved, raw } => {
                self.move_sink(&transaction, held, moved).await?;
                if let (Some(again), Some(raw), Some(stream)) = (moved.again, raw, held.place.topic.stream())
                {
                    let what = Decision::Again { from: again.from, to: again.to };
                    let accepted = Accepted { topic_id: raw.topic_id, what };
                    self.tell_enrich(stream, held.place.partition, again.from, accepted).await?;
                }
                transaction.commit().await.context("ending the transaction; look whether it was done")
            }
            Plan::Raw { target, stream, moved } => {
                let RawMove { from, to, accepted, .. } = moved;
                let detail = json!({ "from_source": from, "to_source": to, "to_topic_id": accepted.topic_id,
                    "committed": accepted.to_string() });
                self.write_down(&transaction, *target, detail).await?;
                self.tell_enrich(*stream, target.partition(), *to, *accepted).await?;
                let missing = "Kafka has the decision and enrich honours it, but it may not be in audit_log";
                transaction.commit().await.context(missing)
            }
        }
    }

    async fn move_sink(
        &self,
        transaction: &Transaction<'_>,
        held: &Held,
        moved: &SinkMove,
    ) -> anyhow::Result<()> {
        let (place, from, to) = (held.place, Point::of(held), moved.to);
        let row = transaction
            .query_one(
                "SELECT sink_accept($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    &place.topic.name(),
                    &place.partition,
                    &self.asked.action(),
                    &self.actor,
                    &from.offset,
                    &from.topic_id,
                    &from.source,
                    &to.offset,
                    &to.topic_id,
                    &to.source,
                ],
            )
            .await
            .map_err(|error| match error.code() {
                Some(code) if code.code() == MOVED => {
                    anyhow!("the sink has moved {place} meanwhile: repeat this")
                }
                _ => anyhow::Error::new(error).context("moving the sink's position"),
            })?;
        let generation: i32 = row.try_get(0)?;
        let again = moved.again.map(|again| json!({ "from_source": again.from, "to_source": again.to }));
        let detail = json!({
            "generation": generation,
            "from_offset": from.offset, "to_offset": to.offset,
            "from_topic_id": from.topic_id, "to_topic_id": to.topic_id,
            "from_source": from.source, "to_source": to.source,
            "again": again,
        });
        self.write_down(transaction, Target::Sink(place), detail).await
    }

    async fn write_down(
        &self,
        transaction: &Transaction<'_>,
        target: Target,
        detail: serde_json::Value,
    ) -> anyhow::Result<()> {
        let (action, object_id) = (self.asked.action(), target.to_string());
        let entry = Entry {
            org: None,
            actor: self.actor,
            action,
            object: "partition",
            object_id: &object_id,
            detail,
        };
        audit::record(transaction, &entry).await
    }

    async fn tell_enrich(
        &self,
        stream: Stream,
        partition: i32,
        offset: i64,
        accepted: Accepted,
    ) -> anyhow::Result<()> {
        let (group, at) = self.kafka().enrich(stream, partition);
        let committed = Committed { offset, metadata: accepted.to_string() };
        match self.admin.set_committed_with_metadata(&group, &at, committed).await {
            Err(error) if error.is_group_in_use() => bail!(
                "group {group} has members: stop tidewatch-enrich first, every instance of it (one that was killed is a \
                 member for 10 s more), then repeat this"
            ),
            answer => Ok(answer?),
        }
    }
}

fn nothing(target: Target, found: String) -> Outcome {
    Outcome {
        partition: target.to_string(),
        action: None,
        dry_run: false,
        found,
        offsets: None,
        raw_offsets: None,
        topic_id: None,
        skipped_offsets: 0,
        skipped_raw_offsets: 0,
        note: None,
        next: None,
    }
}
