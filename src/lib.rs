//! Millstream.
pub mod batch;
pub mod budget;
pub mod error;
pub mod limits;
pub mod names;
pub mod shard;
pub mod ws;
