//! Tests how a queue's home describes, creates and alters it, and how open operations learn of that.

use millstream::base::attributes::Attributes;
use millstream::base::error::{Fault, StoreFault};
use millstream::base::queue::{QueueId, Signing};
use millstream::base::wish::{Alteration, Created, Granted, Wish};
use millstream::pb::{ConsumeSetupRequest, ProduceRequest, ProduceSetupRequest, SetupRequest};
use millstream::shard::core::{ChangeId, Letter, Peer, Settings};
use millstream::store::{Completion, Life, NewQueue, Request, StoreEvent};
use prost::Message;
use serde_json::{Map, Value, json};
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::scripted::{SHARDS, Shard, name};
use super::{Frame, HANDSHAKE, Random, masked};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn attributes(value: &Value) -> Attributes {
    Attributes::parse_stored(value.to_string().as_bytes()).unwrap()
}

fn life(incarnation: u64, new: NewQueue) -> Life {
    let NewQueue { partitions, attributes } = new;
    Life { incarnation, partitions, signing: Signing::default(), attributes }
}

impl Shard {
    fn wish(&mut self, wish: Wish) -> ChangeId {
        self.core.wish(self.now, name(), wish)
    }

    fn alter(&mut self, changes: Value, partitions: Option<u16>) -> ChangeId {
        self.wish(Wish::Alter(Alteration { changes: map(changes), partitions }))
    }

    /// Expects that the store is asked to open the queue. Returns what it may create.
    fn looks(&mut self, result: impl FnOnce(Option<NewQueue>) -> Result<Life, StoreFault>) -> QueueId {
        let Some(Request::Open { token, queue, create, .. }) = self.script.borrow_mut().asked.pop_front()
        else {
            panic!("the store was not asked to open a queue")
        };
        self.says(Completion::Opened { token, result: result(create) });
        queue
    }

    /// Expects that the store is asked to alter the queue, and lets it answer.
    fn alters(&mut self, fault: Option<StoreFault>) -> NewQueue {
        let Some(Request::Alter { token, partitions, attributes, .. }) =
            self.script.borrow_mut().asked.pop_front()
        else {
            panic!("the store was not asked to alter a queue")
        };
        let new = NewQueue { partitions, attributes };
        let result = fault.map_or_else(|| Ok(life(5, new.clone())), Err);
        self.says(Completion::Altered { token, result });
        new
    }

    fn granted(&mut self, id: ChangeId) -> Granted {
        let (of, granted) = self.core.poll_granted().expect("it is answered");
        assert_eq!(of, id);
        granted
    }

    /// Returns the partitions of the queue as another shard is told.
    fn grown(&mut self, shard: u16) -> Option<u16> {
        let letters = self.core.poll_outbox(shard).unwrap_or_default();
        letters.into_iter().find_map(|letter| match letter {
            Letter::Grown { partitions, .. } => Some(partitions),
            _ => None,
        })
    }
}

#[test]
fn a_created_queue_is_new_once_and_needs_no_auto_create() {
    let settings = Settings { auto_create: false, ..Settings::default() };
    let mut home = Shard::with(0, SHARDS, settings);
    let wished = json!({"_partitions": 3, "_max_messages": 9, "mine": "a"});
    let first = home.wish(Wish::Create(map(wished.clone())));
    let again = home.wish(Wish::Create(map(json!({"mine": "b"}))));
    let found = home.wish(Wish::Find);
    home.open(1);
    home.looks(|create| {
        assert_eq!(create, None, "it may exist");
        Err(StoreFault::NoQueue)
    });
    assert!(home.core.poll_granted().is_none());
    home.looks(|create| Ok(life(5, create.unwrap())));
    let kept = attributes(&json!({"_max_messages": 9, "mine": "a"}));
    for (id, is_new) in [(first, true), (again, false), (found, false)] {
        let Created { is_new: told, queue } = home.granted(id).unwrap();
        assert_eq!((told, queue.info.partitions, &queue.attributes), (is_new, 3, &kept));
        assert_eq!(queue.info.policy.get().messages_max, Some(9), "operations see it");
    }
    assert_eq!(home.opened(), [(1, Ok(5))], "it waited for the creation");
    assert!(!home.is_asked());
}

#[test]
fn a_queue_that_only_the_store_knows_is_found_and_not_created() {
    let mut home = Shard::new(0, SHARDS);
    let created = home.wish(Wish::Create(Map::new()));
    home.looks(|_| Ok(life(5, NewQueue::plain(2))));
    assert!(!home.granted(created).unwrap().is_new);
    let mut home = Shard::new(0, SHARDS);
    let altered = home.alter(json!({"a": 1}), None);
    home.looks(|_| Ok(life(5, NewQueue::plain(2))));
    home.alters(None);
    assert_eq!(home.granted(altered).unwrap().queue.attributes, attributes(&json!({"a": 1})));
    for wish in [Wish::Find, Wish::Alter(Alteration::default())] {
        let mut home = Shard::new(0, SHARDS);
        let id = home.wish(wish);
        home.looks(|create| create.map(|_| unreachable!()).ok_or(StoreFault::NoQueue));
        assert_eq!(home.granted(id).unwrap_err(), StoreFault::NoQueue.into());
    }
}

#[test]
fn limits_on_queues_hold_for_created_ones() {
    let mut home = Shard::with(0, SHARDS, Settings { max_queues: 0, ..Settings::default() });
    let id = home.wish(Wish::Create(Map::new()));
    home.looks(|_| Err(StoreFault::NoQueue));
    assert_eq!(home.granted(id).unwrap_err(), StoreFault::TooManyQueues.into());
    assert!(!home.is_asked());
}

#[test]
fn bad_attributes_are_refused_and_change_nothing() {
    let mut home = Shard::new(0, SHARDS);
    let id = home.wish(Wish::Create(map(json!({"_partitions": 65}))));
    assert_eq!(home.granted(id).unwrap_err().status().0, 400);
    home.open(1);
    home.opens(5);
    for (changes, partitions, words) in [
        (json!({"_max_messages": 0}), None, "_max_messages: 0 is not"),
        (json!({"_partitions": 4}), None, "_partitions: is set at the creation"),
        (json!({}), Some(2), "_partitions: 2 are fewer than the 3"),
        (json!({}), Some(65), "_partitions: 65 is not"),
    ] {
        let id = home.alter(changes, partitions);
        let fault = home.granted(id).unwrap_err();
        assert!(fault.status().0 == 400 && fault.to_string().starts_with(words), "{fault}");
    }
    let id = home.alter(json!({"absent": null}), Some(3));
    assert_eq!(home.granted(id).unwrap().queue.attributes, Attributes::default(), "nothing changes");
    assert!(!home.is_asked());
}

#[test]
fn an_alteration_is_told_and_counts_once_the_store_has_made_it() {
    let mut home = Shard::new(0, SHARDS);
    let mut other = Shard::new(2, SHARDS);
    other.open_from(2, 1);
    other.deliver(&mut home);
    home.opens(5);
    home.deliver(&mut other);
    let first = home.alter(json!({"_default_message_ttl": 100, "mine": 1}), None);
    home.alters(None);
    let policy = home.granted(first).unwrap().queue.info.policy;
    assert_eq!(policy.ttl_secs(), Some(100));
    let second = home.alter(json!({"_max_messages": 7}), Some(5));
    let meanwhile = home.wish(Wish::Find);
    assert_eq!(home.granted(meanwhile).unwrap().queue.info.partitions, 3);
    assert!(!policy.refuses() && policy.grown_to() == 0, "it is not durable");
    let all = json!({"_default_message_ttl": 100, "mine": 1, "_max_messages": 7});
    assert_eq!(home.alters(None), NewQueue { partitions: 5, attributes: attributes(&all) });
    let altered = home.granted(second).unwrap().queue;
    assert_eq!((altered.info.partitions, altered.attributes), (5, attributes(&all)));
    assert!(policy.refuses() && policy.grown_to() == 5);
    assert_eq!(home.grown(1), Some(5));
    let third = home.alter(json!({"_default_message_ttl": null}), None);
    let fault = StoreFault::Unavailable("the disk is full");
    home.alters(Some(fault.clone()));
    assert_eq!(home.granted(third).unwrap_err(), fault.into());
    let found = home.wish(Wish::Find);
    assert_eq!(home.granted(found).unwrap().queue.attributes, attributes(&all), "it is as before");
    assert_eq!(policy.ttl_secs(), Some(100));
}

#[test]
fn what_another_server_has_altered_counts_for_open_operations() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    let found = home.wish(Wish::Find);
    let policy = home.granted(found).unwrap().queue.info.policy;
    for (now, ttl) in [(json!({"_default_message_ttl": 100, "mine": 1}), Some(100)), (json!({}), None)] {
        let attributes = attributes(&now);
        let altered = StoreEvent::Altered { queue, attributes: attributes.clone() };
        home.script.borrow_mut().events.push_back(altered);
        home.core.handle_completions(home.now);
        let found = home.wish(Wish::Find);
        assert_eq!((home.granted(found).unwrap().queue.attributes, policy.ttl_secs()), (attributes, ttl));
    }
    // A queue that was forgotten meanwhile stays forgotten.
    let queue = QueueId::new(0, 99);
    let altered = StoreEvent::Altered { queue, attributes: attributes(&json!({"mine": 1})) };
    home.script.borrow_mut().events.push_back(altered);
    home.core.handle_completions(home.now);
    assert!(!home.is_asked());
}

#[test]
fn alterations_openings_and_deletions_of_a_queue_run_in_order() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let altered = home.alter(json!({"a": 1}), None);
    assert_eq!(home.script.borrow().asked.len(), 1);
    home.opens(5);
    assert_eq!(home.opened(), [(1, Ok(5))]);
    home.open(2);
    assert_eq!(home.opened(), [(2, Ok(5))], "an alteration holds up no operation");
    home.core.delete(home.now, name());
    let late = home.alter(json!({"a": 2}), None);
    assert_eq!(home.script.borrow().asked.len(), 1, "one change at a time");
    home.alters(None);
    assert!(home.granted(altered).is_ok());
    home.deletes(Ok(5));
    home.looks(|_| Err(StoreFault::NoQueue));
    assert_eq!(home.granted(late).unwrap_err(), StoreFault::NoQueue.into());
    // An alteration that is late, because the disk fails, refuses nobody.
    home.open(3);
    home.opens(6);
    home.opened();
    home.alter(json!({"a": 1}), None);
    let due = home.core.next_deadline().unwrap();
    home.passes_to(due.get());
    home.open(4);
    assert_eq!(home.opened(), [(4, Ok::<_, Fault>(6))]);
}

fn sends(setup: &SetupRequest, requests: &[ProduceRequest]) -> Vec<u8> {
    let mut half = setup.encode_length_delimited_to_vec();
    requests.iter().for_each(|request| half.extend(request.encode_length_delimited_to_vec()));
    let mut input = Vec::new();
    masked(Frame::message(half, OpCode::Data(Data::Binary), false), &mut Random(1), &mut input);
    input
}

fn append(queue: &str, payload: &'static [u8], ttl: Option<u32>) -> Vec<u8> {
    let setup = ProduceSetupRequest { queue_name: Some(queue.into()) };
    let request = ProduceRequest { ttl, payloads: vec![payload.into()], ..ProduceRequest::default() };
    sends(&SetupRequest { append: Some(setup), ..SetupRequest::default() }, &[request])
}

#[test]
fn open_operations_go_on_with_changed_attributes_and_more_partitions() {
    let mut shard = super::connected();
    let get = ConsumeSetupRequest {
        queue_name: Some("q".into()),
        echo_requested: Some(true),
        ..ConsumeSetupRequest::default()
    };
    shard.receive_all(&sends(&SetupRequest { get: Some(get), ..SetupRequest::default() }, &[]));
    shard.send_all();
    let project = millstream::base::names::Project::parse("default").unwrap();
    let name = (project, millstream::base::names::QueueName::parse("q").unwrap());
    let changes = map(json!({"_default_message_ttl": 77}));
    let alteration = Alteration { changes, partitions: Some(11) };
    let id = shard.core.wish(shard.now, name, Wish::Alter(alteration));
    shard.send_all();
    let Some((of, Ok(altered))) = shard.core.poll_granted() else { panic!("it is altered") };
    assert_eq!((of, altered.queue.info.partitions), (id, 11));
    // Another connection stores messages in the new partitions, without a TTL.
    shard.id = shard.core.handle_accepted(shard.now, Peer::Unix).unwrap();
    shard.receive_all(HANDSHAKE.as_bytes());
    shard.receive_all(&append("q/10", b"in the new partition", None));
    shard.core.flush(shard.now, shard.id);
    shard.read.clear();
    shard.send_all();
    let has = |text: &[u8]| shard.read.windows(text.len()).any(|window| window == text);
    assert!(has(b"in the new partition") && has(b"a.0"), "the consumer gets it");
    assert!(!has(b"ttl: absent"));
}
