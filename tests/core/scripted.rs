//! A shard's core on a store that answers when the test says so.

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
use millstream::shard::core::{Asking, ConnectionId, Connections, Core, Letter, Settings};
use millstream::store::{Completion, Life, Request, Store, StoreCounters, StoreEvent};

pub const SHARDS: u16 = 3;

/// The requests to a store, and the answers that it will give.
#[derive(Default)]
pub struct Script {
    pub asked: VecDeque<Request<Connections>>,
    pub answers: VecDeque<Completion<Connections>>,
    pub events: VecDeque<StoreEvent>,
    pub forgotten: Vec<(QueueId, u64)>,
}

/// A store that answers when the test says so.
pub struct ScriptedStore(Rc<RefCell<Script>>);

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
pub fn name() -> FullName {
    let project = Project::parse("p").unwrap();
    let names = (0..).map(|number| QueueName::parse(&format!("q{number}")).unwrap());
    let queue = names.into_iter().find(|queue| home(queue_hash(&project, queue), SHARDS) == 0).unwrap();
    (project, queue)
}

/// A shard's core on a scripted store.
pub struct Shard {
    pub number: u16,
    pub core: Core<ScriptedStore>,
    pub script: Rc<RefCell<Script>>,
    pub now: Now,
}

impl Shard {
    pub fn new(number: u16, shards: u16) -> Self {
        Self::with(number, shards, Settings::default())
    }

    pub fn with(number: u16, shards: u16, settings: Settings) -> Self {
        let script = Rc::new(RefCell::new(Script::default()));
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let (settings, store) = (Arc::new(settings), ScriptedStore(script.clone()));
        let core = Core::new(number, shards, settings, tenants, store);
        Self { number, core, script, now: Now::at_ms(1, 1_700_000_000_000) }
    }

    /// Opens the queue for a connection of shard 1.
    pub fn open(&mut self, operation: u32) {
        self.open_from(1, operation);
    }

    /// A connection of `shard` wants to open the queue.
    pub fn open_from(&mut self, shard: u16, operation: u32) {
        let (connection, operation) = (ConnectionId::default(), OperationId(operation));
        let by = Asking { shard, connection, operation };
        self.core.handle_letter(self.now, Letter::Open { by, name: name(), may_create: true });
    }

    pub fn says(&mut self, completion: Completion<Connections>) {
        self.script.borrow_mut().answers.push_back(completion);
        self.core.handle_completions(self.now);
    }

    /// Expects a request to open the queue, and lets the store open it. Returns the server's id of the queue.
    pub fn opens(&mut self, incarnation: u64) -> QueueId {
        let Some(Request::Open { token, queue, .. }) = self.script.borrow_mut().asked.pop_front() else {
            panic!("the store was not asked to open a queue")
        };
        let life =
            Life { incarnation, partitions: 3, signing: Signing::default(), attributes: Default::default() };
        self.says(Completion::Opened { token, result: Ok(life) });
        queue
    }

    /// Expects a request to delete the queue, and lets the store answer with `result`.
    pub fn deletes(&mut self, result: Result<u64, StoreFault>) {
        let Some(Request::Delete { token, name: asked }) = self.script.borrow_mut().asked.pop_front() else {
            panic!("the store was not asked to delete a queue")
        };
        assert_eq!(asked, name());
        self.says(Completion::Deleted { token, result });
    }

    pub fn is_asked(&self) -> bool {
        !self.script.borrow().asked.is_empty()
    }

    /// Returns the answered operations of shard 1, each with the incarnation of its queue.
    pub fn opened(&mut self) -> Vec<(u32, Result<u64, Fault>)> {
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
    pub fn forgets(&mut self, shard: u16) -> Vec<(Option<u16>, QueueId, u64)> {
        let letters = self.core.poll_outbox(shard).unwrap_or_default().into_iter();
        let forgets = letters.filter_map(|letter| match letter {
            Letter::Forget { queue, incarnation, confirm_to } => Some((confirm_to, queue, incarnation)),
            _ => None,
        });
        forgets.collect()
    }

    /// The store finds that the life of a queue has ended.
    pub fn finds_gone(&mut self, queue: QueueId, incarnation: u64) {
        self.script.borrow_mut().events.push_back(StoreEvent::Gone { queue, incarnation });
        self.core.handle_completions(self.now);
    }

    /// Delivers everything that this shard has for another one, in order.
    pub fn deliver(&mut self, to: &mut Self) {
        for letter in self.core.poll_outbox(to.number).unwrap() {
            to.core.handle_letter(to.now, letter);
        }
    }

    pub fn passes_to(&mut self, mono: u64) {
        self.now = Now::at_ms(mono, self.now.unix.get());
        self.core.handle_timeouts(self.now);
    }

    pub fn has_forgotten(&mut self, shard: u16, queue: QueueId) {
        self.core.handle_letter(self.now, Letter::Forgotten { shard, queue });
    }
}
