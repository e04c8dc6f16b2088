//! Simulates a whole deployment without I/O. A seed determines the history: clients, network, shards, stores
//! and disk run on one random schedule with injected failures. An independent model judges what the clients
//! saw.
//!
//! | file | contents |
//! | --- | --- |
//! | `world` | the storm, step by step, and the calm after it |
//! | `disasters` | power loss, kills, restarts, restored disks, bad blocks, clock jumps |
//! | `verdict`, `model` | what clients may have seen, independent of the server's code |
//! | `settings` | the random choices of a seed |
//! | `server` | shards that sleep and wake as on glommio, and how a server starts and stops |
//! | `host`, `pipe`, `clock`, `disk` | the environment of a shard |
//! | `store` | a memory store that is slow, full or failing |
//! | `client` | the real clients |
//! | `tunnel` | TLS between some clients and their server |
//! | `crew` | a queue whose messages are claimed by workers |
//! | `letters` | the dead-letter queue of that one, and who alters both |
//! | `doomed` | a second queue, which is occasionally deleted |
//! | `guests` | clients of the Zaqar API, on a third queue |
//!
//! Everything except the kernel, the disk and the driver's system calls is the real code: `client`, `ws`,
//! `front`, `operation`, `shard::core`, `shard::turn`, `base::clock`, and as the store usually `store::log`,
//! otherwise `store::Memory`.
//!
//! A seed always has the same history. A failure names the seed. `TESTS_SEEDS=FROM..TO` runs other seeds than
//! CI, or a failed one again:
//!
//! ```text
//! TESTS_SEEDS=43..44 cargo test --test simulation
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod client;
mod clock;
mod crew;
mod disasters;
mod disk;
mod doomed;
mod guests;
mod host;
mod letters;
mod model;
mod pipe;
#[path = "../common/random.rs"]
mod random;
mod server;
mod settings;
mod store;
mod tunnel;
mod verdict;
mod world;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, available_parallelism};

use world::World;

/// The seeds that CI runs.
const SEEDS: std::ops::Range<u64> = 0..800;

/// The number of seeds that run twice.
const SEEDS_RUN_TWICE: usize = 20;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("TESTS_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("TESTS_SEEDS=FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Runs a seed. Returns a digest of its history, or the failure.
fn run(seed: u64) -> Result<u64, String> {
    catch_unwind(|| World::new(seed)?.run()).unwrap_or_else(|_| Err("panicked, see above".into()))
}

#[test]
fn the_protocol_allows_every_history() {
    let seeds = seeds();
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(BTreeMap::new()));
    let work = || {
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < seeds.end
            && failed.lock().unwrap().is_empty()
        {
            if let Err(why) = run(seed) {
                failed.lock().unwrap().insert(seed, why);
            }
        }
    };
    let threads = available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some((seed, why)) = failed.into_inner().unwrap().pop_first() {
        panic!("seed {seed}: {why}");
    }
}

#[test]
fn a_seed_always_has_the_same_history() {
    for seed in seeds().take(SEEDS_RUN_TWICE) {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
