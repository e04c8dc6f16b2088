//! Millstream.
pub mod batch;
pub mod budget;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod error;
pub mod latency;
pub mod limits;
pub mod load;
pub mod names;
pub mod pb;
pub mod queue;
pub mod session;
pub mod shard;
pub mod store;
pub mod ws;
