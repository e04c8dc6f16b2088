//! The shards of a server without the rest, and what their clients know.

use super::*;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::queue_hash;
use crate::base::queue::{home, owner};
use crate::store::{Life, NewQueue};

/// The fate of a message, as far as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    UnderWay,
    /// It was stored at this offset.
    Acknowledged(Offset),
    /// It may be stored or not.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) fate: Fate,
    /// When it may expire, at the earliest.
    pub(super) expiry: UnixMillis,
    /// Whether it may be gone before that.
    pub(super) is_released: bool,
    /// Whether it is stored after that.
    pub(super) is_pinned: bool,
    /// Whether it was stored before the server started.
    pub(super) is_earlier: bool,
}

impl Message {
    /// Returns whether it is stored and nothing allows it to go, except its expiry.
    pub(super) fn must_be_there(&self) -> bool {
        matches!(self.fate, Fate::Acknowledged(_)) && !self.is_released
    }
}

/// The shards of a server without the rest, and what their clients know.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) disk: Simulated,
    pub(super) config: Settings,
    pub(super) logs: Vec<Log<u64, Simulated>>,
    pub(super) now: Now,
    /// The number of the next message, which its payload contains, or of the next request.
    pub(super) next: u64,
    /// The messages that were sent to each partition, by number.
    pub(super) sent: BTreeMap<PartitionKey, BTreeMap<u64, Message>>,
    pub(super) appends: HashMap<u64, (PartitionKey, Vec<u64>)>,
    pub(super) open: BTreeSet<u64>,
    pub(super) reads: HashMap<u64, Result<Fetched, StoreFault>>,
    /// Whether every message expires soon. Otherwise whole segments never expire.
    pub(super) all_end: bool,
    /// Whether the machine may lose power. Otherwise only the process may end.
    pub(super) power_fails: bool,
    /// The boot of the machine.
    pub(super) boot: u128,
    pub(super) dir: Option<Arc<DataDir>>,
    /// The partitions of which the shards have told that they have state from an earlier run.
    pub(super) told: BTreeSet<PartitionKey>,
}

pub(super) fn name(queue: u64) -> (Project, QueueName) {
    (Project::parse("p").unwrap(), QueueName::parse(&format!("queue-{queue}")).unwrap())
}

impl World {
    pub(super) fn new(seed: u64, config: Settings) -> Self {
        let mut world = Self {
            seed,
            random: Random(seed),
            disk: Simulated::new(seed ^ 0x5eed),
            power_fails: config.durability == Durability::Fsync,
            config,
            logs: Vec::new(),
            now: Now::at_ms(1, 1_000_000_000_000),
            next: 0,
            sent: BTreeMap::new(),
            appends: HashMap::new(),
            open: BTreeSet::new(),
            reads: HashMap::new(),
            all_end: seed.is_multiple_of(3),
            boot: 1,
            dir: None,
            told: BTreeSet::new(),
        };
        world.start();
        world
    }

    pub(super) fn shards(&self) -> u16 {
        self.logs.len() as u16
    }

    /// Starts with a random number of shards. If the disk fails, heals it.
    pub(super) fn start(&mut self) -> Report {
        let shards = self.random.between(1, 3) as u16;
        let now = self.moment();
        let open = || open(&self.disk, shards, self.config.segment_bytes, &now);
        let (dir, report) = open().unwrap_or_else(|error| {
            assert!(matches!(error, OpenError::Io(_)), "{error}");
            self.disk.heal();
            open().unwrap()
        });
        let dir = Arc::new(dir);
        self.dir = Some(dir.clone());
        self.logs = (0..shards)
            .map(|shard| Log::new(dir.clone(), self.disk.of(shard), shard, shards, &self.config))
            .collect();
        self.open.clear();
        self.forget_claims();
        report
    }

    pub(super) fn log_of(&mut self, key: PartitionKey) -> &mut Log<u64, Simulated> {
        let (project, queue) = name(key.queue.0);
        let partition = key.partition.of_state().unwrap_or(key.partition);
        let shard = owner(queue_hash(&project, &queue), partition, self.shards());
        &mut self.logs[usize::from(shard)]
    }

    /// Opens a queue. Returns false if it cannot be opened now.
    pub(super) fn open(&mut self, queue: u64) -> bool {
        if self.open.contains(&queue) {
            return true;
        }
        let name = name(queue);
        let shard = usize::from(home(queue_hash(&name.0, &name.1), self.shards()));
        let request = Request::Open {
            token: u64::MAX,
            queue: QueueId(queue),
            name,
            create: Some(NewQueue::plain(PARTITIONS)),
        };
        assert!(self.logs[shard].submit(self.now, request).is_ok());
        loop {
            for completion in self.poll() {
                if let Completion::Opened { result, .. } = completion {
                    if let Ok(Life { partitions, .. }) = result {
                        assert_eq!(partitions, PARTITIONS);
                        self.open.insert(queue);
                    }
                    return result.is_ok();
                }
            }
            assert!(self.disk.advance(), "an opening is answered");
        }
    }

    /// Sends a batch of one to three messages.
    pub(super) fn append(&mut self, key: PartitionKey, ttl: u32) {
        let sizes: Vec<usize> = (0..self.random.between(1, 3))
            .map(|_| {
                let more = if self.random.below(8) == 0 { 9_000 } else { 200 };
                self.random.below(more)
            })
            .collect();
        self.append_sized(key, ttl, &sizes);
    }

    /// Sends a batch of messages. `sizes` are their bytes in addition to their numbers.
    pub(super) fn append_sized(&mut self, key: PartitionKey, ttl: u32, sizes: &[usize]) {
        self.append_built(key, BatchBuilder::new(ClientId::from(7), ttl, 0), sizes, b"");
    }

    /// Sends a batch of messages with these headers. `sizes` are their bytes in addition to their numbers.
    pub(super) fn append_built(
        &mut self,
        key: PartitionKey,
        mut builder: BatchBuilder,
        sizes: &[usize],
        headers: &[u8],
    ) {
        let mut numbers = Vec::new();
        for size in sizes {
            let mut payload = self.next.to_le_bytes().to_vec();
            payload.resize(8 + size, self.next as u8);
            builder.push_record(Record { headers, ..Record::plain(&payload) });
            let expiry = self.now.unix + Millis::from_secs(builder.ttl_secs());
            let (is_released, is_pinned, is_earlier) = (false, false, false);
            let message = Message { fate: Fate::UnderWay, expiry, is_released, is_pinned, is_earlier };
            self.sent.entry(key).or_default().insert(self.next, message);
            numbers.push(self.next);
            self.next += 1;
        }
        let (now, token) = (self.now, self.next);
        self.appends.insert(token, (key, numbers));
        // A producer gives up after a failure, so each append has its own stream.
        let request =
            Request::Append { token, stream: Stream(token.into()), partition: key, batch: builder.close() };
        assert!(self.log_of(key).submit(now, request).is_ok());
    }

    /// Returns the shards' completions, after recording the fates of messages.
    pub(super) fn poll(&mut self) -> Vec<Completion<u64>> {
        let mut all = Vec::new();
        for log in &mut self.logs {
            while let Some(completion) = log.poll_completion(self.now) {
                all.push(completion);
            }
        }
        self.note_fates(&all);
        all
    }

    /// Records the fates of messages, and what was read.
    pub(super) fn note_fates(&mut self, completions: &[Completion<u64>]) {
        for completion in completions {
            match completion {
                Completion::Appended { token, result } => {
                    let (key, numbers) = self.appends.remove(token).expect("a token completes once");
                    let sent = self.sent.get_mut(&key).unwrap();
                    for (index, number) in numbers.iter().enumerate() {
                        let message = sent.get_mut(number).unwrap();
                        message.fate = match result {
                            Ok(range) => Fate::Acknowledged(range.clone().unwrap().start + index as u64),
                            Err(_) => Fate::Unknown,
                        };
                    }
                }
                Completion::Fetched { token, result } => {
                    self.reads.insert(*token, result.clone());
                }
                _ => {}
            }
        }
    }

    pub(super) fn settle(&mut self) {
        loop {
            self.poll();
            if !self.disk.advance() && self.poll().is_empty() {
                return;
            }
        }
    }

    /// Ends the server without a clean stop, and starts it again.
    pub(super) fn crash(&mut self) -> Report {
        if self.power_fails && self.random.one_in(2) {
            self.disk.lose_power();
            self.boot += 1;
        } else {
            self.disk.kill();
        }
        self.appends.clear();
        for message in self.sent.values_mut().flat_map(BTreeMap::values_mut) {
            if message.fate == Fate::UnderWay {
                message.fate = Fate::Unknown;
            }
        }
        self.start()
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { unix_ns: self.now.unix.get() * 1_000_000, boot: self.boot }
    }

    /// Returns the present timeline of the directory.
    pub(super) fn timeline(&self) -> u64 {
        self.dir.as_ref().unwrap().signing().timeline
    }

    /// Stops the server cleanly, and starts it again.
    pub(super) fn restart(&mut self) -> Report {
        self.stop();
        self.start()
    }

    pub(super) fn stop(&mut self) {
        self.settle();
        for _ in 0..1000 {
            let is_stopped =
                self.logs.iter_mut().map(|log| log.handle_stop(self.now)).fold(true, |all, one| all & one);
            if is_stopped {
                let now = self.moment();
                self.dir.as_ref().unwrap().mark_stopped(&self.disk, &now).unwrap();
                return;
            }
            self.disk.advance();
        }
        panic!("seed {}: the stores do not stop", self.seed);
    }

    /// Forgets the messages with an unknown fate: those that are not stored now never appear.
    pub(super) fn forget_unknown(&mut self) {
        for sent in self.sent.values_mut() {
            sent.retain(|_, message| message.fate != Fate::Unknown);
        }
    }

    /// Lets time pass. One tick writes the marks of partitions' ends; the next one releases their files.
    pub(super) fn pass(&mut self, length: Millis) {
        self.now = self.now.later(length);
        for _ in 0..3 {
            self.tick();
            self.settle();
        }
    }

    /// Returns the number of segment files.
    pub(super) fn segments(&self) -> usize {
        let files = self.disk.list().unwrap();
        files.iter().filter(|(file, _)| matches!(file, FileName::Segment(_))).count()
    }

    pub(super) fn tick(&mut self) {
        for log in &mut self.logs {
            log.handle_tick(self.now);
        }
        self.refresh_stale();
    }

    pub(super) fn act(&mut self) {
        let key = PartitionKey {
            queue: QueueId(self.random.below(QUEUES as usize) as u64),
            partition: Partition(self.random.below(PARTITIONS.into()) as u16),
        };
        match self.random.below(16) {
            0..=6 if self.open(key.queue.0) => {
                let ttl = if self.all_end || self.random.one_in(2) { 20 } else { 100_000 };
                self.append(key, ttl);
            }
            7..=12 => {
                for _ in 0..self.random.below(8) {
                    self.disk.advance();
                }
                self.poll();
            }
            13 => {
                let ms = self.random.below(3_000) as u64;
                self.now = self.now.later(Millis::new(ms));
                self.tick();
            }
            14 if self.open.contains(&key.queue.0) => {
                let sent = self.sent.get(&key).map_or(0, BTreeMap::len);
                let from = self.random.below(sent + 1) as u64;
                // While the disk fails, this may fail, too.
                let _ = self.read(key, Offset(from));
            }
            15 if self.open.contains(&key.queue.0) => self.act_on_claims(key),
            _ => {}
        }
    }

    /// Sets the clock to `unix`, a second later.
    pub(super) fn set_clock(&mut self, unix: UnixMillis) {
        self.now = Now { unix, ..self.now.later(Millis::new(1_000)) };
    }

    pub(super) fn append_one(&mut self, key: PartitionKey, ttl: u32) -> u64 {
        self.append_sized(key, ttl, &[100]);
        self.settle();
        self.next - 1
    }
}
