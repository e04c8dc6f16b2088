//! A whole deployment without I/O, by seed: clients, network, shards and stores under one random schedule, with failures
//! injected, and an independent model that judges what the clients saw.
//!
//! One seed in four ends with the servers draining in the middle of it all. Everything but the kernel and the driver's
//! system calls is the real code: `client`, `ws`, `session`, `shard::core`, `store::Memory`. `perf` and CI run the same seeds; `TESTS_SEEDS=FROM..TO` runs others.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod client;
mod model;
#[path = "../common/random.rs"]
mod random;
mod store;
mod world;

use world::World;

/// The seeds of CI.
const SEEDS: std::ops::Range<u64> = 0..400;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("TESTS_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("TESTS_SEEDS=FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn every_history_is_one_that_the_protocol_allows() {
    for seed in seeds() {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        match run {
            Ok(Ok(())) => {}
            Ok(Err(why)) => panic!("seed {seed}: {why}"),
            Err(_) => panic!("seed {seed}: panicked, see above"),
        }
    }
}
