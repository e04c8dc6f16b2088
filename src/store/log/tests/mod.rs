//! The log on a simulated disk. A world of shards and clients advances step by step, and is checked against
//! what its clients know.

mod alterations;
mod backup;
mod claims;
mod clock;
mod conformance;
mod deletion;
mod filled;
mod golden;
mod grouping;
mod judge;
mod making;
mod missing;
mod removal;
mod restores;
mod room;
mod state;
mod storage;
mod survival;
mod unreadable;
mod waiting;
mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::claims::hidden;
use self::filled::*;
use self::world::*;
use super::disk::{Directory, FileName, Step};
use super::random::Random;
use super::simulated::Simulated;
use super::*;
use crate::base::batch::{Batch, BatchBuilder, Fetched, Record, Shape};
use crate::base::claim::View;
use crate::base::names::{ClientId, Project, QueueName};
use crate::base::queue::{PartitionKey, Position};
use crate::base::units::Offset;
use crate::store::Stream;

fn config() -> Settings {
    Settings { segment_bytes: 64 << 10, tail_bytes: 8 << 10, ..Settings::default() }
}

const QUEUES: u64 = 3;
const PARTITIONS: u16 = 2;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Returns the number of seeds to try, which `TESTS_SEEDS` sets.
fn seeds() -> u64 {
    std::env::var("TESTS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(200)
}
