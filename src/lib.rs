//! Millstream.
pub mod shard;
