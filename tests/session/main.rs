//! Tests the server's session under random splits of a client's bytes and random orders of the store's
//! answers.
//!
//! There is no shard and no store: the test plays both, and answers the session's commands on a random
//! schedule. The expected output comes from the protocol page, not from the session's code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod claim;
mod consume;
mod harness;
mod policy;
mod produce;
#[path = "../common/random.rs"]
mod random;
mod rewind;
#[path = "../common/rig.rs"]
mod rig;
mod shown;
#[path = "../common/transcript.rs"]
mod transcript;
