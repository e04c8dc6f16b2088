//! A memory store that is sometimes slow, full or failing.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use millstream::base::claim::View;
use millstream::base::clock::Now;
use millstream::base::error::StoreFault;
use millstream::base::millis::{Millis, UnixMillis};
use millstream::base::queue::{PartitionKey, QueueId};
use millstream::base::units::{Offset, Partition};
use millstream::operation::OperationId;
use millstream::shard::core::{Asking, ConnectionId, Connections, PartitionToken};
use millstream::store::claims::{FetchBy, Inner};
use millstream::store::{
    Completion, Fence, Holding, Ledgers, Memory, Portion, Request, StateKeeping, Store, StoreCounters,
};

use super::disk::{Log, Simulated};
use super::random::Random;

/// The client of the store: the ledgers around it.
type Client = Inner<Connections>;

/// The conditions that the simulation imposes on a store.
pub struct Weather {
    pub random: Random,
    /// Whether requests are held back and released later.
    pub slow: bool,
    /// The odds of failure: one append in this many fails. 0 disables failures.
    pub failing: usize,
    /// The odds of a full store: one request in this many is rejected. 0 disables this.
    pub full: usize,
}

pub struct WeatheredStore {
    memory: RefCell<Memory<Client>>,
    weather: Rc<RefCell<Weather>>,
    /// Orders waiting requests and ready completions.
    fence: Fence,
    /// The partitions with appends.
    partitions: BTreeSet<PartitionKey>,
    held: VecDeque<Request<Client>>,
    ready: VecDeque<Completion<Client>>,
}

impl WeatheredStore {
    pub fn new(memory: Memory<Client>, weather: Rc<RefCell<Weather>>) -> Self {
        Self {
            memory: RefCell::new(memory),
            weather,
            fence: Fence::default(),
            partitions: BTreeSet::new(),
            held: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    fn payloads(&self, now: Now) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        let by = Asking { shard: 0, connection: ConnectionId::default(), operation: OperationId::default() };
        let token = PartitionToken { by, partition: Partition(0) };
        let mut memory = self.memory.borrow_mut();
        for partition in self.partitions.iter().copied() {
            let (from, bytes_max) = (Offset::ZERO, usize::MAX);
            let fetch = Request::Fetch {
                token: FetchBy::Client(token, partition, View::Unclaimed),
                partition,
                from,
                bytes_max,
                exclude: None,
                view: View::Unclaimed,
                wait: false,
            };
            assert!(memory.submit(now, fetch).is_ok());
            let Some(Completion::Fetched { result: Ok(fetched), .. }) = memory.poll_completion(now) else {
                panic!("a fetch that does not wait must complete at once")
            };
            payloads.extend(
                fetched.batches.iter().flat_map(|stored| stored.batch.payloads().map(<[u8]>::to_vec)),
            );
        }
        payloads
    }

    fn let_in(&mut self, now: Now, request: Request<Client>) {
        let mut weather = self.weather.borrow_mut();
        let odds = weather.failing;
        if let Request::Append { token, stream, .. } = &request
            && (self.fence.is_closed(*stream) || odds > 0 && weather.random.one_in(odds))
        {
            self.fence.close(now, *stream);
            let result = Err(StoreFault::Unavailable("the weather"));
            // The appends of a partition complete in order.
            self.ready.extend(std::iter::from_fn(|| self.memory.borrow_mut().poll_completion(now)));
            self.ready.push_back(Completion::Appended { token: *token, result });
            return;
        }
        if let Request::Append { partition, .. } = &request {
            self.partitions.insert(*partition);
        }
        assert!(
            self.memory.borrow_mut().submit(now, request).is_ok(),
            "the memory store must accept every request"
        );
    }
}

/// What the simulation needs from a store besides its requests.
pub trait Contents: Store<Connections> {
    /// Returns every stored payload, or `None` if only consumers can tell.
    fn contents(&self, _now: Now) -> Option<Vec<Vec<u8>>> {
        None
    }
}

impl Contents for Ledgers<Log<Inner<Connections>, Simulated>, Connections> {}

impl Contents for Ledgers<WeatheredStore, Connections> {
    fn contents(&self, now: Now) -> Option<Vec<Vec<u8>>> {
        Some(self.inner().payloads(now))
    }
}

impl Store<Client> for WeatheredStore {
    const STATE: StateKeeping = StateKeeping::Volatile;

    fn submit(&mut self, now: Now, request: Request<Client>) -> Result<(), Request<Client>> {
        let (slow, full) = {
            let mut weather = self.weather.borrow_mut();
            let odds = weather.full;
            (weather.slow, odds > 0 && weather.random.one_in(odds))
        };
        if full && !matches!(request, Request::Cancel { .. }) {
            return Err(request);
        }
        if slow || !self.held.is_empty() {
            self.held.push_back(request);
        } else {
            self.let_in(now, request);
        }
        Ok(())
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<Client>> {
        let lets = {
            let mut weather = self.weather.borrow_mut();
            if weather.slow { weather.random.below(3) } else { usize::MAX }
        };
        for _ in 0..lets {
            let Some(request) = self.held.pop_front() else { break };
            self.let_in(now, request);
        }
        self.ready.pop_front().or_else(|| self.memory.borrow_mut().poll_completion(now))
    }

    fn set_clock_step_max(&mut self, by: Millis) {
        self.memory.borrow_mut().set_clock_step_max(by);
    }

    fn handle_tick(&mut self, now: Now) -> Option<Millis> {
        self.memory.borrow_mut().handle_tick(now)
    }

    fn release(&mut self, partition: PartitionKey, below: Offset) {
        self.memory.borrow_mut().release(partition, below);
    }

    fn partitions(&self, queue: QueueId) -> Vec<Partition> {
        Store::<Client>::partitions(&*self.memory.borrow(), queue)
    }

    fn holding(&mut self, partition: PartitionKey, from: Offset, unix: UnixMillis) -> Option<Holding> {
        self.memory.borrow_mut().holding(partition, from, unix)
    }

    fn each_portion(&mut self, partition: PartitionKey, range: Range<Offset>, each: &mut dyn FnMut(Portion)) {
        self.memory.borrow_mut().each_portion(partition, range, each);
    }

    fn pin(&mut self, partition: PartitionKey, pinned: Vec<Range<Offset>>) {
        self.memory.borrow_mut().pin(partition, pinned);
    }

    fn counters(&self) -> StoreCounters {
        self.memory.borrow().counters()
    }

    fn waiting(&self) -> usize {
        self.memory.borrow().waiting() + self.held.len()
    }
}
