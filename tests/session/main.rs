//! The server's session under every way of cutting a client's bytes and every order of the store's answers.
//!
//! No shard and no store: the test is both, and answers what the session asks whenever the drawn schedule says so. What
//! the client must then read is worked out from the protocol page, without the session's code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod consume;
mod harness;
mod produce;
#[path = "../common/random.rs"]
mod random;
mod rewind;
#[path = "../common/rig.rs"]
mod rig;
#[path = "../common/transcript.rs"]
mod transcript;
