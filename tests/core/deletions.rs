//! Tests deletions of queues: the home deletes the queue, and answers when every shard has forgotten it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::Now;
use millstream::base::error::{Fault, StoreFault};
use millstream::base::millis::Millis;
use millstream::base::names::{FullName, Project, QueueName, queue_hash};
use millstream::base::queue::{QueueId, QueueInfo, Signing, home};
use millstream::operation::OperationId;
use millstream::shard::core::{Asking, ConnectionId, Connections, Core, Deleted, FORGET, Letter, Settings};
use millstream::store::{Completion, Life, Request, Store, StoreCounters, StoreEvent};

const SHARDS: u16 = 3;

/// The requests to a store, and the answers that it will give.
#[derive(Default)]
struct Script {
    asked: VecDeque<Request<Connections>>,
    answers: VecDeque<Completion<Connections>>,
    events: VecDeque<StoreEvent>,
    forgotten: Vec<(QueueId, u64)>,
}

/// A store that answers when the test says so.
struct ScriptedStore(Rc<RefCell<Script>>);

impl Store<Connections> for ScriptedStore {
    fn submit(&mut self, _now: Now, request: Request<Connections>) -> Result<(), Request<Connections>> {
        self.0.borrow_mut().asked.push_back(request);
        Ok(())
    }

    fn poll_completion(&mut self, _now: Now) -> Option<Completion<Connections>> {
        self.0.borrow_mut().answers.pop_front()
    }

    fn poll_event(&mut self) -> Option<StoreEvent> {
        self.0.borrow_mut().events.pop_front()
    }

    fn forget(&mut self, queue: QueueId, incarnation: u64) {
        self.0.borrow_mut().forgotten.push((queue, incarnation));
    }

    fn handle_tick(&mut self, _now: Now) -> Option<Millis> {
        None
    }

    fn counters(&self) -> StoreCounters {
        StoreCounters::default()
    }

    fn waiting(&self) -> usize {
        0
    }
}

/// Returns the name of a queue whose home is shard 0.
fn name() -> FullName {
    let project = Project::parse("p").unwrap();
    let names = (0..).map(|number| QueueName::parse(&format!("q{number}")).unwrap());
    let queue = names.into_iter().find(|queue| home(queue_hash(&project, queue), SHARDS) == 0).unwrap();
    (project, queue)
}

/// A shard's core on a scripted store.
struct Shard {
    number: u16,
    core: Core<ScriptedStore>,
    script: Rc<RefCell<Script>>,
    now: Now,
}

impl Shard {
    fn new(number: u16, shards: u16) -> Self {
        let script = Rc::new(RefCell::new(Script::default()));
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let (settings, store) = (Arc::new(Settings::default()), ScriptedStore(script.clone()));
        let mut core = Core::new(number, shards, settings, tenants, store);
        // A store without an earlier run has no doubts about it.
        for shard in (0..shards).filter(|shard| *shard != number) {
            let letters = core.poll_outbox(shard).unwrap_or_default();
            assert!(matches!(letters[..], [Letter::Certain]), "{letters:?}");
        }
        Self { number, core, script, now: Now::at_ms(1, 1_700_000_000_000) }
    }

    /// Opens the queue for a connection of shard 1.
    fn open(&mut self, operation: u32) {
        self.open_from(1, operation);
    }

    /// A connection of `shard` wants to open the queue.
    fn open_from(&mut self, shard: u16, operation: u32) {
        let (connection, operation) = (ConnectionId::default(), OperationId(operation));
        let by = Asking { shard, connection, operation };
        self.core.handle_letter(self.now, Letter::Open { by, name: name(), may_create: true });
    }

    fn says(&mut self, completion: Completion<Connections>) {
        self.script.borrow_mut().answers.push_back(completion);
        self.core.handle_completions(self.now);
    }

    /// Expects a request to open the queue, and lets the store open it. Returns the server's id of the queue.
    fn opens(&mut self, incarnation: u64) -> QueueId {
        let Some(Request::Open { token, queue, .. }) = self.script.borrow_mut().asked.pop_front() else {
            panic!("the store was not asked to open a queue")
        };
        let life =
            Life { incarnation, partitions: 3, signing: Signing::default(), attributes: Default::default() };
        self.says(Completion::Opened { token, result: Ok(life) });
        queue
    }

    /// Expects a request to delete the queue, and lets the store answer with `result`.
    fn deletes(&mut self, result: Result<u64, StoreFault>) {
        let Some(Request::Delete { token, name: asked }) = self.script.borrow_mut().asked.pop_front() else {
            panic!("the store was not asked to delete a queue")
        };
        assert_eq!(asked, name());
        self.says(Completion::Deleted { token, result });
    }

    fn is_asked(&self) -> bool {
        !self.script.borrow().asked.is_empty()
    }

    /// Returns the answered operations of shard 1, each with the incarnation of its queue.
    fn opened(&mut self) -> Vec<(u32, Result<u64, Fault>)> {
        let letters = self.core.poll_outbox(1).unwrap_or_default().into_iter();
        let opened = letters.filter_map(|letter| match letter {
            Letter::Opened { by, result, .. } => {
                Some((by.operation.0, result.map(|info: QueueInfo| info.incarnation)))
            }
            _ => None,
        });
        opened.collect()
    }

    /// Returns what the shard asks another shard to forget.
    fn forgets(&mut self, shard: u16) -> Vec<(Option<u16>, QueueId, u64)> {
        let letters = self.core.poll_outbox(shard).unwrap_or_default().into_iter();
        let forgets = letters.filter_map(|letter| match letter {
            Letter::Forget { queue, incarnation, confirm_to } => Some((confirm_to, queue, incarnation)),
            _ => None,
        });
        forgets.collect()
    }

    /// The store finds that the life of a queue has ended.
    fn finds_gone(&mut self, queue: QueueId, incarnation: u64) {
        self.script.borrow_mut().events.push_back(StoreEvent::Gone { queue, incarnation });
        self.core.handle_completions(self.now);
    }

    /// Delivers everything that this shard has for another one, in order.
    fn deliver(&mut self, to: &mut Self) {
        for letter in self.core.poll_outbox(to.number).unwrap() {
            to.core.handle_letter(to.now, letter);
        }
    }

    fn passes_to(&mut self, mono: u64) {
        self.now = Now::at_ms(mono, self.now.unix.get());
        self.core.handle_timeouts(self.now);
    }

    fn has_forgotten(&mut self, shard: u16, queue: QueueId) {
        self.core.handle_letter(self.now, Letter::Forgotten { shard, queue });
    }
}

#[test]
fn a_deletion_is_answered_once_every_shard_has_forgotten() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    home.opened();
    let id = home.core.delete(home.now, name());
    assert_eq!(home.core.poll_deleted(), None, "not before the store has deleted it");
    home.deletes(Ok(5));
    assert_eq!(home.script.borrow().forgotten, [(queue, 5)]);
    assert_eq!((home.forgets(1), home.forgets(2)), (vec![(Some(0), queue, 5)], vec![(Some(0), queue, 5)]));
    assert_eq!(home.core.poll_deleted(), None);
    home.has_forgotten(2, queue);
    home.has_forgotten(2, queue);
    assert_eq!(home.core.poll_deleted(), None, "shard 1 may still serve it");
    home.has_forgotten(1, queue);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
    assert_eq!((home.core.poll_deleted(), home.core.next_deadline()), (None, None));
}

#[test]
fn a_single_shard_answers_as_soon_as_its_store_does() {
    let mut home = Shard::new(0, 1);
    home.core.delete(home.now, name());
    home.deletes(Err(StoreFault::NoQueue));
    assert!(matches!(home.core.poll_deleted(), Some((_, Err(StoreFault::NoQueue)))));
    home.core.handle_letter(
        home.now,
        Letter::Open {
            by: Asking { shard: 0, connection: ConnectionId::default(), operation: OperationId(1) },
            name: name(),
            may_create: true,
        },
    );
    home.opens(5);
    home.core.delete(home.now, name());
    home.deletes(Ok(5));
    assert!(matches!(home.core.poll_deleted(), Some((_, Ok(Deleted::Everywhere)))));
}

#[test]
fn a_shard_that_does_not_answer_is_named() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    let id = home.core.delete(home.now, name());
    home.deletes(Ok(5));
    home.has_forgotten(1, queue);
    let due = home.now.mono + FORGET;
    assert_eq!(home.core.next_deadline(), Some(due));
    home.now = Now::at_ms(due.get() - 1, home.now.unix.get());
    home.core.handle_timeouts(home.now);
    assert_eq!(home.core.poll_deleted(), None);
    home.now = Now::at_ms(due.get(), home.now.unix.get());
    home.core.handle_timeouts(home.now);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::NotBy(2)))));
    home.has_forgotten(2, queue);
    assert_eq!((home.core.poll_deleted(), home.core.next_deadline()), (None, None));
}

#[test]
fn openings_and_deletions_of_a_queue_run_in_order() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    home.open(2);
    let first = home.core.delete(home.now, name());
    home.open(3);
    let second = home.core.delete(home.now, name());
    let third = home.core.delete(home.now, name());
    assert_eq!(home.script.borrow().asked.len(), 1, "one change at a time");
    let old = home.opens(5);
    let mut opened = home.opened();
    opened.sort_by_key(|(operation, _)| *operation);
    assert_eq!(opened, [(1, Ok(5)), (2, Ok(5))]);
    home.deletes(Ok(5));
    assert_eq!(home.opened(), [], "operation 3 came after the deletion: it waits for a new queue");
    let new = home.opens(6);
    assert!(new != old);
    assert_eq!(home.opened(), [(3, Ok(6))]);
    home.deletes(Ok(6));
    home.deletes(Err(StoreFault::NoQueue));
    assert_eq!(home.core.poll_deleted(), Some((third, Err(StoreFault::NoQueue))), "nothing is left of it");
    for (id, queue) in [(second, new), (first, old)] {
        home.has_forgotten(1, queue);
        home.has_forgotten(2, queue);
        assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
    }
    assert!(!home.is_asked());
}

#[test]
fn a_queue_that_cannot_be_deleted_still_serves() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    home.opens(5);
    home.opened();
    let id = home.core.delete(home.now, name());
    home.open(2);
    assert_eq!(home.opened(), []);
    let fault = StoreFault::Unavailable("the disk is full");
    home.deletes(Err(fault.clone()));
    assert_eq!(home.core.poll_deleted(), Some((id, Err(fault))));
    assert_eq!(home.opened(), [(2, Ok(5))]);
    assert!(!home.is_asked() && home.script.borrow().forgotten.is_empty());
}

#[test]
fn operations_that_wait_for_a_late_deletion_are_refused() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    home.opened();
    let id = home.core.delete(home.now, name());
    for operation in 2..4 {
        home.open(operation);
        let due = home.core.next_deadline().unwrap();
        home.passes_to(due.get() - 1);
        assert_eq!(home.opened(), []);
        home.passes_to(due.get());
        let fault = Fault::Store(StoreFault::Unavailable("the queue is being deleted"));
        assert_eq!(home.opened(), [(operation, Err(fault))]);
    }
    assert_eq!(home.core.poll_deleted(), None);
    home.open(4);
    home.deletes(Ok(5));
    home.has_forgotten(1, queue);
    home.has_forgotten(2, queue);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
    assert!(home.is_asked(), "operation 4 opens another queue");
}

#[test]
fn a_deletion_is_answered_although_the_store_reports_the_queue_as_gone_first() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    let id = home.core.delete(home.now, name());
    home.script.borrow_mut().events.push_back(StoreEvent::Gone { queue, incarnation: 5 });
    home.core.handle_completions(home.now);
    assert_eq!(home.forgets(1), [(None, queue, 5)]);
    home.deletes(Ok(5));
    assert_eq!(home.forgets(1), [(Some(0), queue, 5)]);
    home.has_forgotten(1, queue);
    home.has_forgotten(2, queue);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
}

#[test]
fn a_drain_waits_for_deletions_unless_the_store_is_late() {
    for is_late in [false, true] {
        let mut home = Shard::new(0, SHARDS);
        home.open(1);
        let queue = home.opens(5);
        home.core.delete(home.now, name());
        home.core.handle_drain(home.now);
        for _ in 1..SHARDS {
            home.core.handle_letter(home.now, Letter::ProducersDrained);
        }
        // The last stage begins after the shard has told the others that its own producers are done.
        for _ in 0..2 {
            home.core.handle_completions(home.now);
        }
        for shard in 1..SHARDS {
            home.core.poll_outbox(shard);
        }
        assert!(!home.core.is_drained());
        if is_late {
            home.passes_to(home.core.next_deadline().unwrap().get());
            assert!(home.core.is_drained());
            continue;
        }
        home.deletes(Ok(5));
        for shard in 1..SHARDS {
            home.core.poll_outbox(shard);
        }
        assert!(!home.core.is_drained());
        home.has_forgotten(1, queue);
        home.has_forgotten(2, queue);
        assert!(home.core.is_drained());
    }
}

#[test]
fn another_shard_forgets_before_it_says_so() {
    let mut other = Shard::new(2, SHARDS);
    let queue = QueueId(9);
    other.core.handle_letter(other.now, Letter::Forget { queue, incarnation: 5, confirm_to: Some(0) });
    assert_eq!(other.script.borrow().forgotten, [(queue, 5)], "even if it was never opened here");
    let said = other.core.poll_outbox(0).unwrap();
    assert!(matches!(said[..], [Letter::Forgotten { shard: 2, queue: QueueId(9) }]), "{said:?}");
    assert!(other.core.poll_outbox(1).is_none());
}

#[test]
fn every_shard_forgets_a_queue_that_a_store_reports_as_gone() {
    let mut home = Shard::new(0, SHARDS);
    let queue = QueueId::new(0, 9);
    home.finds_gone(queue, 5);
    assert_eq!(home.script.borrow().forgotten, [(queue, 5)]);
    assert_eq!((home.forgets(1), home.forgets(2)), (vec![(None, queue, 5)], vec![(None, queue, 5)]));
    let mut other = Shard::new(1, SHARDS);
    other.core.handle_letter(other.now, Letter::Forget { queue, incarnation: 5, confirm_to: None });
    assert_eq!(other.script.borrow().forgotten, [(queue, 5)]);
    assert!(other.core.poll_outbox(0).is_none(), "no deletion waits");
    assert_eq!(home.core.poll_deleted(), None, "no deletion was requested");
}

#[test]
fn a_forget_never_overtakes_an_answer_to_an_open() {
    let [mut home, mut finder, mut opener] = [0, 1, 2].map(|number| Shard::new(number, SHARDS));
    opener.open_from(2, 1);
    opener.deliver(&mut home);
    let queue = home.opens(5);
    // The answer to shard 2 is in flight. Shard 1 finds the queue gone, and its letter could arrive first.
    finder.finds_gone(queue, 5);
    assert!(finder.core.poll_outbox(2).is_none(), "only the home tells other shards to forget");
    finder.deliver(&mut home);
    home.deliver(&mut finder);
    home.deliver(&mut opener);
    for shard in [&home, &finder, &opener] {
        assert_eq!(shard.script.borrow().forgotten, [(queue, 5)]);
    }
    // Shard 2 does not know the dead queue: it asks the home again, and the home asks its store.
    opener.open_from(2, 2);
    opener.deliver(&mut home);
    assert!(home.opens(6) != queue);
}
