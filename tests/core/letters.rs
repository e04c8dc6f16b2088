//! Tests that dead letters travel between shards: from the owner of a partition to the home of the dead-letter queue, and
//! to the owners of its partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream::access::{ProjectLimits, Tenants};
use millstream::base::batch::BatchBuilder;
use millstream::base::claim::{Leases, Settle, Settlement, Terms, View, Worker};
use millstream::base::clock::Now;
use millstream::base::names::{ClientId, FullName, Project, QueueName, queue_hash};
use millstream::base::policy::Policy;
use millstream::base::queue::{QueueInfo, home};
use millstream::base::units::{Offset, Partition, Sequence};
use millstream::operation::OperationId;
use millstream::shard::core::{
    AppendToken, Asking, ClaimToken, ConnectionId, Connections, Core, Letter, PartitionToken, Settings,
    SettleToken,
};
use millstream::store::claims::Inner;
use millstream::store::memory::{Memory, WhenFull};
use millstream::store::{Completion, Ledgers, Request, Stream};

const SHARDS: u16 = 3;

/// Returns whether an address is the test's. No shard has this connection.
fn is_mine_by(by: Asking) -> bool {
    by.connection == ConnectionId::new(7, 0)
}

/// Returns the address of the test at another shard than `owner`, so that answers come by letter.
fn me(owner: u16) -> Asking {
    let shard = (owner + 1) % SHARDS;
    Asking { shard, connection: ConnectionId::new(7, 0), operation: OperationId(1) }
}

fn name(queue: &str) -> FullName {
    (Project::parse("p").unwrap(), QueueName::parse(queue).unwrap())
}

struct Server {
    cores: Vec<Core<Ledgers<Memory<Inner<Connections>>, Connections>>>,
    tenants: Arc<Tenants>,
    now: Now,
    opened: Vec<QueueInfo>,
    completions: Vec<Completion<Connections>>,
    /// The letters of errands that went from one shard to another.
    errands: usize,
}

impl Server {
    fn new() -> Self {
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let core = |shard| {
            let store = Ledgers::new(Memory::new(64 << 20, WhenFull::Refuse, 7));
            Core::new(shard, SHARDS, Arc::new(Settings::default()), tenants.clone(), store)
        };
        let (cores, now) = ((0..SHARDS).map(core).collect(), Now::at_ms(1, 1_700_000_000_000));
        Self { cores, tenants, now, opened: Vec::new(), completions: Vec::new(), errands: 0 }
    }

    /// Lets the shards work until nothing is left to do.
    fn run(&mut self) {
        for _ in 0..200 {
            for from in 0..self.cores.len() {
                self.cores[from].handle_completions(self.now);
                for to in 0..SHARDS {
                    for letter in self.cores[from].poll_outbox(to).unwrap_or_default() {
                        match letter {
                            Letter::Opened { by, result, .. } if is_mine_by(by) => {
                                self.opened.push(result.unwrap());
                            }
                            Letter::Completion(completion) if is_mine(&completion) => {
                                self.completions.push(completion);
                            }
                            letter => {
                                self.errands += 1;
                                self.cores[usize::from(to)].handle_letter(self.now, letter);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns a queue, which is created if it does not exist.
    fn open(&mut self, queue: &str) -> QueueInfo {
        let name = name(queue);
        let home = home(queue_hash(&name.0, &name.1), SHARDS);
        let letter = Letter::Open { by: me(home), name, may_create: true };
        self.cores[usize::from(home)].handle_letter(self.now, letter);
        self.run();
        self.opened.pop().expect("it must open")
    }

    fn ask(&mut self, queue: &QueueInfo, partition: Partition, request: Request<Connections>) {
        let owner = usize::from(queue.owner(partition, SHARDS));
        self.cores[owner].handle_letter(self.now, Letter::Request(request));
        self.run();
    }
}

fn is_mine(completion: &Completion<Connections>) -> bool {
    match completion {
        Completion::Appended { token, .. } => is_mine_by(token.by),
        Completion::Claimed { token, .. } => is_mine_by(token.by),
        Completion::Settled { token, .. } => is_mine_by(token.by),
        Completion::Fetched { token, .. } => is_mine_by(token.by),
        _ => false,
    }
}

#[test]
fn rejected_messages_reach_the_partitions_of_the_dead_letter_queue_on_other_shards() {
    let mut server = Server::new();
    let jobs = server.open("jobs");
    let (_, policy) = server.tenants.policies().get(jobs.id).unwrap();
    policy.set(Policy { dead_queue: Some(name("dead").1), ..Policy::default() });
    for partition in jobs.all() {
        let me = me(jobs.owner(partition, SHARDS));
        let key = jobs.key(partition);
        let mut builder = BatchBuilder::new(ClientId::from(1), 600, 0);
        builder.push(&[partition.0 as u8]);
        let token = AppendToken {
            by: me,
            sequence: Sequence::default(),
            reserved: 0,
            messages: 1,
            sent_ns: 0,
            stage_ns: 0,
        };
        let append = Request::Append { token, stream: Stream(1), partition: key, batch: builder.close() };
        server.ask(&jobs, partition, append);
        let token = ClaimToken { by: me, partition, asked_ns: 0 };
        let terms = Terms { client: ClientId::from(1), ttl_secs: 60, grace_secs: 0 };
        let (messages_max, bytes_max) = (10, 1_000);
        let claim =
            Request::Claim { token, worker: Worker(1), partition: key, terms, messages_max, bytes_max };
        server.ask(&jobs, partition, claim);
        let leases = server.completions.drain(..).find_map(|completion| match completion {
            Completion::Claimed { result, .. } => Some(Leases::One(result.unwrap().unwrap().lease)),
            _ => None,
        });
        let token = SettleToken { by: me, partition, sequence: Sequence::default(), asked_ns: 0 };
        let (client, what) = (ClientId::from(1), Settle::Reject);
        let settlements = vec![Settlement { client, leases: leases.unwrap(), offsets: vec![], what }];
        server.ask(&jobs, partition, Request::Settle { token, partition: key, settlements });
    }
    assert!(server.errands > 0, "other shards own some of the partitions");
    let dead = server.open("dead");
    let mut found = BTreeSet::new();
    server.completions.clear();
    for partition in dead.all() {
        let me = me(dead.owner(partition, SHARDS));
        let fetch = Request::Fetch {
            token: PartitionToken { by: me, partition },
            partition: dead.key(partition),
            from: Offset(0),
            bytes_max: 1 << 20,
            exclude: None,
            view: View::Unclaimed,
            wait: false,
        };
        server.ask(&dead, partition, fetch);
    }
    for completion in server.completions.drain(..) {
        let Completion::Fetched { result, .. } = completion else { continue };
        for record in result.unwrap().batches.iter().flat_map(|stored| stored.batch.records()) {
            assert!(found.insert(record.payload.to_vec()), "{record:?} is there twice");
            assert!(!record.headers.is_empty());
        }
    }
    assert_eq!(found.len(), usize::from(jobs.partitions));
}

#[test]
fn a_shard_is_certain_once_all_have_adopted_their_queues() {
    let mut core = Server::new().cores.swap_remove(0);
    assert!(matches!(&core.poll_outbox(1).unwrap()[..], [Letter::Adopted]));
    core.handle_letter(Now::at_ms(1, 1_700_000_000_000), Letter::Adopted);
    assert!(core.poll_outbox(1).is_none());
    core.handle_letter(Now::at_ms(1, 1_700_000_000_000), Letter::Adopted);
    assert!(matches!(&core.poll_outbox(1).unwrap()[..], [Letter::Certain]));
}
