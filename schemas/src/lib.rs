//! Avro schemas, typed records, their codec and the SQL migrations.
