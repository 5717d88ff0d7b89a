//! What is done to the database and the broker beside the flow of events: migrations, month partitions, topics, orgs,
//! tokens, and what an operator accepts.
//!
//! Everything here is a command that can be repeated harmlessly. It never touches a row of a live month, and it never
//! takes a lock that a writer would wait for.

mod accept;
mod apply;
mod audit;
mod cli;
mod doctor;
mod forget;
mod list;
mod migrate;
mod orgs;
mod output;
mod place;
mod plan;
mod run;
mod summarise;
mod tokens;
mod topics;

pub use accept::{Asked, InvalidTarget, Outcome, Refusal, Request, Target, accept};
pub use apply::{Created, TABLES, Table, apply};
pub use cli::main;
pub use doctor::{Accepted, Check, Equation, Gone, Line, Options, Problem, Progress, Report, doctor};
pub use forget::{Pushes, forget_pushes};
pub use list::{Leaf, list};
pub use migrate::migrate;
pub use orgs::{Org, create_org, list_orgs};
pub use place::{InvalidPlace, Place, Topic};
pub use plan::{Existing, Horizon, Month, Overlap, plan};
pub use summarise::{Summarised, Summariser};
pub use tokens::{Kind, NewToken, Revoked, StoredToken, create_token, list_tokens, revoke_token};
pub use topics::specs;
