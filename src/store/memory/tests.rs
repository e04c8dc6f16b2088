//! The memory store on its own: what it drops, expires and counts.

use super::*;
use crate::base::claim::View;
use crate::base::millis::{Millis, UnixMillis};
use crate::store::conformance::{self, batch, key};
use proptest::prelude::*;

fn memory() -> Memory<u64> {
    Memory::new(64 << 20, WhenFull::DropOldest, 7)
}

struct Here(std::cell::Cell<u64>);

impl conformance::Lab for Here {
    type Store = Memory<u64>;

    fn store(&self) -> Memory<u64> {
        memory()
    }

    fn unix(&self) -> Option<UnixMillis> {
        None
    }

    fn wait(&self) -> bool {
        false
    }

    fn has_catalogue(&self) -> bool {
        true
    }

    fn queue(&self) -> (crate::base::queue::QueueId, crate::base::names::QueueName) {
        self.0.set(self.0.get() + 1);
        let name = crate::base::names::QueueName::parse(&format!("q{}", self.0.get())).unwrap();
        (crate::base::queue::QueueId(self.0.get()), name)
    }
}

#[test]
fn the_memory_store_conforms() {
    conformance::run(&Here(std::cell::Cell::new(0)));
}

#[test]
fn one_answer_has_all_batches_of_a_turn_and_a_clock_set_back_keeps_their_order() {
    let mut store = memory();
    let at = |unix| Now::at_ms(0, unix);
    let fetch = |token| Request::Fetch {
        token,
        partition: key(Partition(0)),
        from: Offset(0),
        bytes_max: 1 << 20,
        exclude: None,
        view: View::Unclaimed,
        wait: true,
    };
    assert!(store.submit(at(0), fetch(9)).is_ok() && store.poll_completion(at(0)).is_none());
    for (token, unix) in [(0, 20_000), (1, 10_000)] {
        let (stream, batch) = (Stream(0), batch(1, 60, &[b"x"]));
        let append = Request::Append { token, stream, partition: key(Partition(0)), batch };
        assert!(store.submit(at(unix), append).is_ok());
    }
    let answers: Vec<_> = std::iter::from_fn(|| store.poll_completion(at(20_000))).collect();
    let Some(Completion::Fetched { token: 9, result: Ok(fetched) }) = answers.last() else {
        panic!("{answers:?}")
    };
    let times: Vec<u64> = fetched.batches.iter().map(|stored| stored.timestamp.get()).collect();
    assert_eq!((answers.len(), times), (3, vec![20_000, 20_000]));
}

#[test]
fn a_full_store_drops_and_counts_the_oldest_of_the_shard() {
    let one = cost(&batch(1, 60, &[&[0; 100]]));
    let mut store: Memory<u64> = Memory::new(3 * one, WhenFull::DropOldest, 7);
    let now = Now::default();
    for (token, partition) in [(0, 1), (1, 0), (2, 1), (3, 0)] {
        let append = Request::Append {
            token,
            stream: Stream(0),
            partition: key(Partition(partition)),
            batch: batch(1, 60, &[&[0; 100]]),
        };
        assert!(store.submit(now, append).is_ok());
    }
    assert_eq!((store.counters().dropped, store.bytes()), (1, 3 * one));
    assert_eq!(
        store.partitions[&key(Partition(1))].batches[0].base_offset,
        Offset(1),
        "the oldest was partition 1's first"
    );
    assert_eq!(store.partitions[&key(Partition(0))].batches.len(), 2);
}

#[test]
fn stored_batches_count_for_their_project_until_they_expire_or_are_dropped() {
    use crate::access::ProjectLimits;
    use crate::access::Use;

    let tenants =
        Arc::new(Tenants::new(ProjectLimits { storage_bytes: 1 << 20, ..ProjectLimits::default() }));
    let of = |name: &str| tenants.get(&crate::base::names::Project::parse(name).unwrap(), Millis::ZERO);
    let queue_of = |number: u64, name: &str| {
        let queue = crate::base::queue::QueueId(number);
        tenants.hold_queue(queue, of(name).hold(Use::Queue));
        PartitionKey { queue, partition: Partition(0) }
    };
    let (of_a, of_b) = (queue_of(1, "a"), queue_of(2, "b"));
    let one = cost(&batch(1, 60, &[b"x"]));
    let mut store: Memory<u64> = Memory::new(3 * one, WhenFull::DropOldest, 7);
    store.count_for(&tenants);
    let later = |seconds: u64| Now::at_ms(seconds * 1000, seconds * 1000);
    let append = |store: &mut Memory<u64>, partition, ttl| {
        let batch = batch(1, ttl, &[b"x"]);
        let append = Request::Append { token: 0, stream: Stream(0), partition, batch };
        assert!(store.submit(later(0), append).is_ok());
        (of("a").storage(), of("b").storage())
    };
    let bytes = one as u64;
    assert_eq!(append(&mut store, of_a, 100), (bytes, 0));
    assert_eq!(append(&mut store, of_b, 100), (bytes, bytes));
    assert_eq!(append(&mut store, of_a, 60), (2 * bytes, bytes));
    assert_eq!(append(&mut store, of_b, 60), (bytes, 2 * bytes), "the oldest was dropped");
    // The first expires before an older one; then the oldest expires.
    while store.handle_tick(later(60)) == Some(Millis::new(60_000) + BUSY_TICK) {}
    assert_eq!((of("a").storage(), of("b").storage()), (0, bytes));
    assert_eq!(store.handle_tick(later(100)), None);
    assert_eq!((of("a").storage(), of("b").storage()), (0, 0));
}

#[test]
fn a_full_store_refuses_if_so_configured() {
    let one = cost(&batch(1, 60, &[&[0; 100]]));
    let mut store: Memory<u64> = Memory::new(one, WhenFull::Refuse, 7);
    for token in 0..2 {
        let append = Request::Append {
            token,
            stream: Stream(0),
            partition: key(Partition(0)),
            batch: batch(1, 60, &[&[0; 100]]),
        };
        assert!(store.submit(Now::default(), append).is_ok());
    }
    let results: Vec<bool> = std::iter::from_fn(|| store.poll_completion(Now::default()))
        .map(|completion| matches!(completion, Completion::Appended { result: Ok(_), .. }))
        .collect();
    assert_eq!(results, [true, false]);
    assert_eq!((store.counters().refused, store.bytes()), (1, one));
}

#[test]
fn nothing_of_a_stream_is_stored_after_a_refusal() {
    let one = cost(&batch(1, 60, &[&[0; 100]]));
    let mut store: Memory<u64> = Memory::new(one, WhenFull::Refuse, 7);
    for (token, (stream, bytes)) in (0..).zip([(1, 101), (1, 100), (2, 100)]) {
        let batch = batch(1, 60, &[&vec![0; bytes]]);
        let append = Request::Append { token, stream: Stream(stream), partition: key(Partition(0)), batch };
        assert!(store.submit(Now::default(), append).is_ok());
    }
    let results: Vec<_> = std::iter::from_fn(|| store.poll_completion(Now::default()))
        .map(|completion| match completion {
            Completion::Appended { result, .. } => result,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results, [Err(StoreFault::Full), Err(StoreFault::Fenced), Ok(Some(Offset(0)..Offset(1)))]);
}

/// What happens before an append.
#[derive(Clone, Debug)]
enum Deed {
    Tick,
    Release(Partition, Offset),
    Pin(Partition, Range<Offset>),
    Nothing,
}

fn deed() -> impl Strategy<Value = Deed> {
    let place = || ((0u16..3).prop_map(Partition), 0u64..20);
    prop_oneof![
        4 => Just(Deed::Tick),
        1 => place().prop_map(|(partition, below)| Deed::Release(partition, Offset(below))),
        1 => (place(), 0u64..5).prop_map(|((partition, first), length)| {
            Deed::Pin(partition, Offset(first)..Offset(first + length))
        }),
        3 => Just(Deed::Nothing),
    ]
}

proptest! {
    #[test]
    fn exactly_the_released_and_the_expired_batches_that_are_not_pinned_are_freed(
        steps in proptest::collection::vec(((0u16..3).prop_map(Partition), 60u32..90, 0u32..4, deed()), 1..120),
        room in 3usize..60,
    ) {
        let one = cost(&batch(1, 60, &[b"x"]));
        let mut store: Memory<u64> = Memory::new(room * one, WhenFull::DropOldest, 7);
        let mut now = Now::at_ms(1, 1_000_000);
        // The expected batches, oldest first: partition, offset, expiry.
        let mut there: Vec<(Partition, Offset, UnixMillis)> = Vec::new();
        let mut ends = [Offset::ZERO; 3];
        let mut pins = [(); 3].map(|()| Offset::ZERO..Offset::ZERO);
        for (token, (partition, ttl, seconds, deed)) in (0..).zip(steps) {
            now = now.later(Millis::from_secs(seconds));
            match deed {
                Deed::Tick => {
                    while store.handle_tick(now) == Some(now.mono + BUSY_TICK) {}
                    there.retain(|(partition, offset, expiry)| {
                        *expiry > now.unix || pins[partition.index()].contains(offset)
                    });
                }
                Deed::Release(of, below) => {
                    store.release(key(of), below);
                    there.retain(|(partition, offset, _)| *partition != of || *offset >= below);
                }
                Deed::Pin(of, range) if ends[of.index()] > Offset::ZERO => {
                    store.pin(key(of), Some(range.clone()).filter(|range| !range.is_empty()).into_iter().collect());
                    pins[of.index()] = range;
                }
                Deed::Pin(..) | Deed::Nothing => {}
            }
            prop_assert_eq!(store.batches, there.len());
            let (stream, key) = (Stream(0), key(partition));
            let append = Request::Append { token, stream, partition: key, batch: batch(1, ttl, &[b"x"]) };
            prop_assert!(store.submit(now, append).is_ok());
            if there.len() == room {
                there.remove(0);
            }
            there.push((partition, ends[partition.index()], now.unix + Millis::from_secs(ttl)));
            ends[partition.index()] += 1;
            prop_assert_eq!((store.batches, store.bytes), (there.len(), there.len() * one));
        }
        for (partition, end) in Partition::all(3).zip(ends) {
            let held = store.partitions.get(&key(partition)).map(|partition| &partition.batches);
            let held: Vec<Offset> = held.into_iter().flatten().map(|stored| stored.base_offset).collect();
            let expected = there.iter().filter(|(of, _, _)| *of == partition).map(|(_, offset, _)| *offset);
            prop_assert_eq!(held, expected.collect::<Vec<_>>());
            prop_assert_eq!(store.resolve(key(partition), Position::Latest), Ok(end));
        }
        prop_assert_eq!(store.counters().stored, ends.iter().map(|end| end.0).sum::<u64>());
    }
}

#[test]
fn a_queue_that_is_consumed_leaves_nothing_in_memory_beside_one_that_is_not() {
    let mut store = memory();
    let append = |store: &mut Memory<u64>, partition| {
        let append = Request::Append {
            token: 0,
            stream: Stream(0),
            partition: key(partition),
            batch: batch(1, 1000, &[b"x"]),
        };
        assert!(store.submit(Now::default(), append).is_ok());
    };
    append(&mut store, Partition(1));
    for number in 1..2_000 {
        append(&mut store, Partition(0));
        store.release(key(Partition(0)), Offset(number));
        while store.handle_tick(Now::default()) == Some(BUSY_TICK) {}
    }
    assert_eq!((store.batches, store.partitions[&key(Partition(0))].batches.len()), (1, 0));
    assert!(store.arrivals.len() < 20, "{} entries of released batches", store.arrivals.len());
    store.release(key(Partition(1)), Offset(9));
    assert_eq!((store.batches, store.bytes, store.arrivals.len()), (0, 0, 0));
}

#[test]
fn a_partition_with_only_cancelled_fetches_is_removed() {
    let mut store = memory();
    for round in 0..100 {
        let partition = PartitionKey { queue: crate::base::queue::QueueId(round), partition: Partition(0) };
        let fetch = Request::Fetch {
            token: round,
            partition,
            from: Offset(0),
            bytes_max: 1,
            exclude: None,
            view: View::Unclaimed,
            wait: true,
        };
        assert!(store.submit(Now::default(), fetch).is_ok());
        assert!(store.submit(Now::default(), Request::Cancel { token: round, partition }).is_ok());
    }
    assert!(store.partitions.is_empty());
}

#[test]
fn expired_batches_free_their_bytes_at_any_place() {
    let mut store = memory();
    let now = Now::default();
    for (token, ttl) in [(0, 100), (1, 60), (2, 60)] {
        let append = Request::Append {
            token,
            stream: Stream(0),
            partition: key(Partition(0)),
            batch: batch(1, ttl, &[b"x"]),
        };
        assert!(store.submit(now, append).is_ok());
    }
    let later = |seconds: u64| Now::at_ms(seconds * 1000, seconds * 1000);
    let mut tick = store.handle_tick(later(60));
    while tick == Some(Millis::new(60_000) + BUSY_TICK) {
        tick = store.handle_tick(later(60));
    }
    assert_eq!((store.counters().expired, store.batches, tick), (2, 1, Some(Millis::new(61_000))));
    assert_eq!(store.handle_tick(later(100)), None);
    assert_eq!((store.counters().expired, store.bytes()), (3, 0));
}
