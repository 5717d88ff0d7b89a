//! Postgres connections, pool and the one classification of its errors.
