//! What to do about an error of Postgres, decided here once.

use std::error::Error as _;
use std::io;

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::DbError;

/// What an error calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reconnect if need be and repeat the same thing: it was not its fault. What a lost connection had sent may have
    /// been committed; whoever repeats has to find out.
    Transient,
    /// The server lacks something (connections, memory, disk, time): repeat later, or send less.
    Saturation,
    /// Postgres refuses a value. The same value will be refused again: find it and set it aside.
    Data,
    /// Wrong configuration, schema or program: stop and say so.
    Fatal,
}

impl Class {
    /// As a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Saturation => "saturation",
            Self::Data => "data",
            Self::Fatal => "fatal",
        }
    }
}

/// SQLSTATEs by class; the longest matching prefix decides. From appendix A of the Postgres manual ("Error Codes").
/// What is not here is fatal: an unknown error must not be repeated for ever, nor cost a row.
const TABLE: &[(&str, Class)] = &[
    // Connection.
    ("08", Class::Transient),
    ("08P01", Class::Fatal), // protocol violation: the program's fault
    // A sequence of COPY's binary format that is not one is the encoder's fault, not the row's.
    ("22", Class::Data),
    ("22P04", Class::Fatal),
    ("23", Class::Data),
    // A server that became, or still is, a standby: after a failover the next connection finds the primary, if the URL
    // names both or an address that moves. Also a primary set read-only for maintenance.
    ("25006", Class::Transient),
    ("25P03", Class::Transient), // idle in transaction for too long: the connection is gone
    ("25P04", Class::Transient), // transaction timeout: likewise
    // Rolled back in favour of others.
    ("40", Class::Transient),
    ("40002", Class::Data), // by an integrity constraint
    // Out of disk, memory, connections.
    ("53", Class::Saturation),
    // A value too big or too deeply nested for the server: 54000 a row or index entry, 54001 the stack, by JSON.
    ("54000", Class::Data),
    ("54001", Class::Data),
    ("55006", Class::Transient), // object in use
    ("55P03", Class::Transient), // lock not available
    // Taken away by an operator, a restart, a recovery.
    ("57P01", Class::Transient),
    ("57P02", Class::Transient),
    ("57P03", Class::Transient),
    ("57P05", Class::Transient),
    ("57014", Class::Saturation), // cancelled, by statement_timeout as a rule
    ("58000", Class::Transient), // the server's own system calls fail: its operator has to act, rows are fine
    ("58030", Class::Transient),
];

/// The class of an error of the driver: by SQLSTATE where the server sent one, else by what broke.
pub fn classify(error: &Error) -> Class {
    if let Some(error) = error.as_db_error() {
        return classify_db(error);
    }
    if error.is_closed() {
        return Class::Transient;
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        // The driver refuses to send it: a NUL in a query's text, a message over 2 GiB.
        Some(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            Class::Fatal
        }
        Some(_) => Class::Transient,
        // Types that do not fit, authentication, a configuration that cannot be used.
        None => Class::Fatal,
    }
}

/// The class of an error of the pool.
pub fn classify_pool(error: &PoolError) -> Class {
    match error {
        PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => Class::Saturation,
        PoolError::Timeout(_) => Class::Transient,
        PoolError::Backend(error) => classify(error),
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => Class::Fatal,
    }
}

fn classify_db(error: &DbError) -> Class {
    match error.code().code() {
        // No partition for a row, or one outside its partition, comes as a check violation that names no constraint.
        // The row is right and the schema is behind: its neighbours would all be set aside.
        "23514" if error.constraint().is_none() => Class::Fatal,
        // "cached plan must not change result type": a migration went by, a new connection plans anew.
        "0A000" if error.routine() == Some("RevalidateCachedQuery") => Class::Transient,
        code => classify_sqlstate(code),
    }
}

fn classify_sqlstate(code: &str) -> Class {
    TABLE
        .iter()
        .filter(|(prefix, _)| code.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map_or(Class::Fatal, |(_, class)| *class)
}

/// An error with what the server said, on one line: `tokio_postgres` shows itself as "db error".
///
/// Leaves out the server's detail line, which quotes rows.
pub fn describe(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", error.message(), error.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::connection_failure("08006", Class::Transient)]
    #[case::protocol_violation("08P01", Class::Fatal)]
    #[case::serialization_failure("40001", Class::Transient)]
    #[case::deadlock("40P01", Class::Transient)]
    #[case::transaction_integrity("40002", Class::Data)]
    #[case::admin_shutdown("57P01", Class::Transient)]
    #[case::crash_shutdown("57P02", Class::Transient)]
    #[case::cannot_connect_now("57P03", Class::Transient)]
    #[case::idle_session("57P05", Class::Transient)]
    #[case::database_dropped("57P04", Class::Fatal)]
    #[case::standby("25006", Class::Transient)]
    #[case::idle_in_transaction("25P03", Class::Transient)]
    #[case::failed_transaction("25P02", Class::Fatal)]
    #[case::lock_not_available("55P03", Class::Transient)]
    #[case::disk_io("58030", Class::Transient)]
    #[case::disk_full("53100", Class::Saturation)]
    #[case::out_of_memory("53200", Class::Saturation)]
    #[case::too_many_connections("53300", Class::Saturation)]
    #[case::statement_timeout("57014", Class::Saturation)]
    #[case::numeric_out_of_range("22003", Class::Data)]
    #[case::bad_utf8("22021", Class::Data)]
    #[case::untranslatable("22P05", Class::Data)]
    #[case::bad_binary_value("22P03", Class::Data)]
    #[case::bad_copy_format("22P04", Class::Fatal)]
    #[case::not_null("23502", Class::Data)]
    #[case::unique("23505", Class::Data)]
    #[case::check("23514", Class::Data)]
    #[case::too_big("54000", Class::Data)]
    #[case::too_deep("54001", Class::Data)]
    #[case::too_many_columns("54011", Class::Fatal)]
    #[case::wrong_password("28P01", Class::Fatal)]
    #[case::no_database("3D000", Class::Fatal)]
    #[case::no_table("42P01", Class::Fatal)]
    #[case::no_privilege("42501", Class::Fatal)]
    #[case::raised("P0001", Class::Fatal)]
    #[case::corrupted("XX001", Class::Fatal)]
    #[case::unknown("ZZ999", Class::Fatal)]
    fn every_sqlstate_has_one_class(#[case] code: &str, #[case] class: Class) {
        assert_eq!(classify_sqlstate(code), class);
    }

    #[test]
    fn no_prefix_is_listed_twice() {
        for (index, (prefix, _)) in TABLE.iter().enumerate() {
            assert!(TABLE.iter().skip(index + 1).all(|(other, _)| other != prefix), "{prefix}");
        }
    }
}
