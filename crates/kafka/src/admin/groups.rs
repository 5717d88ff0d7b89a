//! The offsets that groups have committed, and what is written beside them.

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};

use super::{Admin, Inner, REQUEST_TIMEOUT};
use crate::context::Quiet;
use crate::error::Error;
use crate::record::{TopicPartition, list, offsets};

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Next offset to read.
    pub offset: i64,
    /// A text of whoever committed it; of a [`Consumer`](crate::Consumer) its note.
    pub metadata: String,
}

impl Admin {
    /// The committed offsets of a group, by its full name, for these partitions, in order; `None` where it has none.
    ///
    /// # Errors
    /// No broker answered, or the group's offsets cannot be read.
    pub async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Option<i64>)>, Error> {
        let committed = self.committed_with_metadata(group, partitions).await?;
        Ok(committed.into_iter().map(|(at, committed)| (at, committed.map(|found| found.offset))).collect())
    }

    /// [`committed`](Self::committed) with the text beside each offset.
    ///
    /// # Errors
    /// No broker answered, or the group's offsets cannot be read.
    pub async fn committed_with_metadata(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Option<Committed>)>, Error> {
        let (group, partitions) = (group.to_owned(), partitions.to_vec());
        self.ask("asking for committed offsets", move |inner| inner.committed(&group, &partitions)).await
    }

    /// Sets the committed offsets of a group, by its full name. The group must have no members.
    ///
    /// # Errors
    /// No broker answered, or the group has members; nothing, or a part, has been set.
    pub async fn set_committed(&self, group: &str, positions: &[(TopicPartition, i64)]) -> Result<(), Error> {
        let (group, positions) = (group.to_owned(), positions.to_vec());
        self.blocking("setting committed offsets", move |inner| inner.set_committed(&group, &positions, ""))
            .await
    }

    /// [`set_committed`](Self::set_committed) of one partition, with a text beside the offset, which is there until a member
    /// commits.
    ///
    /// # Errors
    /// No broker answered, or the group has members ([`Error::is_group_in_use`]).
    pub async fn set_committed_with_metadata(
        &self,
        group: &str,
        at: &TopicPartition,
        committed: Committed,
    ) -> Result<(), Error> {
        let (group, positions) = (group.to_owned(), [(at.clone(), committed.offset)]);
        self.blocking("setting committed offsets", move |inner| {
            inner.set_committed(&group, &positions, &committed.metadata)
        })
        .await
    }
}

impl Inner {
    /// A client that speaks for the group without being a member.
    fn group_client(&self, group: &str) -> Result<BaseConsumer<Quiet>, Error> {
        let mut config = self.args.client_config("tidewatch-admin");
        config.set("group.id", group).set("enable.auto.commit", "false");
        let client = config.create_with_context(Quiet::default());
        client.map_err(|error| Error::new(format!("making a client of group {group}"), &error))
    }

    fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Option<Committed>)>, Error> {
        let failed = |error| Error::new(format!("asking for the committed offsets of group {group}"), &error);
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.group_client(group)?;
        let answer = client.committed_offsets(list(partitions), REQUEST_TIMEOUT).map_err(failed)?;
        partitions
            .iter()
            .cloned()
            .map(|at| {
                let Some(element) = answer.find_partition(&at.topic, at.partition) else {
                    return Ok((at, None));
                };
                element.error().map_err(failed)?;
                match element.offset() {
                    // The broker keeps it as text, so that reading it as such cannot fail.
                    Offset::Offset(offset) => {
                        Ok((at, Some(Committed { offset, metadata: element.metadata().to_owned() })))
                    }
                    _ => Ok((at, None)),
                }
            })
            .collect()
    }

    fn set_committed(
        &self,
        group: &str,
        positions: &[(TopicPartition, i64)],
        metadata: &str,
    ) -> Result<(), Error> {
        let failed = |error| {
            Error::new(format!("setting offsets of group {group} (which must have no members)"), &error)
        };
        if positions.is_empty() {
            return Ok(());
        }
        let list = offsets(positions).map_err(failed)?;
        if !metadata.is_empty() {
            list.elements().iter_mut().for_each(|element| element.set_metadata(metadata));
        }
        self.group_client(group)?.commit(&list, CommitMode::Sync).map_err(failed)
    }
}
