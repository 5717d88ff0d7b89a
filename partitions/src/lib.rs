//! Migrations, month partitions, orgs and tokens.
