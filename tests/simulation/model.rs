//! The rules for what clients may have seen, independent of the server's code.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use millstream::base::millis::{Millis, UnixMillis};

/// A message as a consumer saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub payload: Vec<u8>,
    pub key: Vec<u8>,
    pub age: u32,
    pub ttl: u32,
    pub timestamp_ms: i64,
    /// The true Unix time of its arrival.
    pub came: UnixMillis,
}

/// When each of a producer's messages was passed to its client, as true Unix time in milliseconds.
pub type Handed = Rc<RefCell<Vec<UnixMillis>>>;

/// A producer and its messages.
pub struct Producer {
    pub client: u128,
    /// The TTL of its messages, in seconds.
    pub ttl: u32,
    pub payloads: Vec<Vec<u8>>,
    pub handed: Handed,
}

impl Producer {
    /// Returns whether a message's first copy may have expired at this time. Clock jumps never make a message
    /// expire earlier.
    fn may_have_ended(&self, sequence: usize, now: UnixMillis) -> bool {
        let handed = self.handed.borrow().get(sequence).copied().unwrap_or(UnixMillis::MAX);
        now >= handed + Millis::from_secs(self.ttl)
    }
}

/// A consumer's request, and events that change what it may see.
pub struct Asked {
    pub client: u128,
    pub echo: bool,
    pub count: Option<u64>,
    /// How many messages the consumer had seen at each rollback of the store. Later messages may be repeats.
    pub rewinds: Vec<usize>,
    /// Whether a wrong clock may have hidden messages from the consumer.
    pub may_skip: bool,
}

impl Asked {
    pub fn new(client: u128, echo: bool, count: Option<u64>) -> Self {
        Self { client, echo, count, rewinds: Vec::new(), may_skip: false }
    }
}

/// The producers' state when a consumer is judged.
pub struct Known<'a> {
    /// How many of each producer's messages are settled, that is, stored or refused, in order.
    pub settled: &'a [usize],
    /// How many messages each producer's client has sent again.
    pub resent: &'a [u64],
    /// The true Unix time, in milliseconds.
    pub now: UnixMillis,
    /// Whether the consumer had the time to see everything.
    pub is_complete: bool,
}

/// The sequence numbers of messages that may be lost, by producer.
pub type Lost = Vec<BTreeSet<usize>>;

/// Judges what the clients saw.
pub struct Model {
    pub producers: Vec<Producer>,
    pub max_payload_bytes: usize,
    /// Whether servers know the true time, so that timestamps and ages are right.
    pub knows_the_time: bool,
    pub lost: Lost,
    /// The payload of each id that any consumer has seen.
    ids: BTreeMap<String, Vec<u8>>,
}

impl Model {
    pub const QUEUE: &str = "simulated";
    /// The TTL of most messages, in seconds: longer than any storm.
    pub const TTL: u32 = 600;
    /// The shortest TTL that the server accepts, in seconds.
    pub const SHORT_TTL: u32 = 60;

    pub fn new(max_payload_bytes: usize, knows_the_time: bool) -> Self {
        let (producers, lost, ids) = (Vec::new(), Lost::new(), BTreeMap::new());
        Self { producers, max_payload_bytes, knows_the_time, lost, ids }
    }

    pub fn add(&mut self, client: u128, ttl: u32, payloads: Vec<Vec<u8>>) {
        self.producers.push(Producer { client, ttl, payloads, handed: Handed::default() });
        self.lost.push(BTreeSet::new());
    }

    /// Returns a payload with its producer and sequence number: `producer:sequence:padding`.
    pub fn payload(producer: usize, sequence: usize, padding: usize) -> Vec<u8> {
        format!("{producer}:{sequence}:{}", ".".repeat(padding)).into_bytes()
    }

    fn origin(payload: &[u8]) -> Option<(usize, usize)> {
        let text = std::str::from_utf8(payload).ok()?;
        let mut parts = text.split(':');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Returns the key of a message. Every second producer uses three keys and sometimes no key; the others
    /// use none.
    pub fn key(payload: &[u8]) -> &'static [u8] {
        const KEYS: [&[u8]; 4] = [b"a", b"", b"another", b"c"];
        match Self::origin(payload) {
            Some((producer, sequence)) if producer % 2 == 1 => KEYS[sequence % KEYS.len()],
            _ => b"",
        }
    }

    /// Returns how many of a producer's messages are small enough to be stored.
    pub fn storable(&self, producer: usize) -> usize {
        let payloads = self.producers[producer].payloads.iter();
        payloads.filter(|payload| payload.len() <= self.max_payload_bytes).count()
    }

    /// Records a rollback of the store to a state with `then` settled messages and these lost messages.
    pub fn handle_rollback(&mut self, then: &[usize], lost: &Lost, now: &[usize]) {
        self.lost.clone_from(lost);
        for (lost, (then, now)) in self.lost.iter_mut().zip(then.iter().zip(now)) {
            lost.extend(*then..*now);
        }
    }

    /// Marks everything that was passed to the clients so far as possibly lost.
    pub fn lose_all(&mut self) {
        for (producer, lost) in self.producers.iter().zip(&mut self.lost) {
            lost.extend(0..producer.handed.borrow().len());
        }
    }

    /// Marks the messages with payloads in these bytes of a file as possibly lost.
    pub fn lose_stretch(&mut self, bytes: &[u8]) {
        // A payload begins with digits, a colon, digits, and a colon. Other bytes may look the same.
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
        for colon in colons {
            let digits_before = bytes[..colon].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let digits_behind = bytes[colon + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let behind = std::str::from_utf8(&bytes[colon + 1..][..digits_behind]).unwrap_or_default();
            let Ok(sequence) = behind.parse() else { continue };
            // The byte before a payload may be a digit, too.
            for from in 0..digits_before {
                let before = std::str::from_utf8(&bytes[colon - digits_before + from..colon]);
                let producer = before.ok().and_then(|before| before.parse::<usize>().ok());
                if let Some(lost) = producer.and_then(|producer| self.lost.get_mut(producer)) {
                    lost.insert(sequence);
                }
            }
        }
    }

    /// Returns whether a message must have reached a consumer that had the time.
    fn is_due(&self, producer: usize, sequence: usize, known: &Known<'_>) -> bool {
        let of = &self.producers[producer];
        sequence < known.settled[producer]
            && of.payloads[sequence].len() <= self.max_payload_bytes
            && !of.may_have_ended(sequence, known.now)
            && !self.lost[producer].contains(&sequence)
    }

    /// Judges what a consumer saw.
    pub fn judge(&mut self, asked: &Asked, seen: &[Seen], known: &Known<'_>) -> Result<(), String> {
        let mut all: HashSet<&[u8]> = HashSet::new();
        let mut from = 0;
        for until in asked.rewinds.iter().copied().chain([seen.len()]) {
            self.judge_stretch(asked, &seen[from..until], &mut all, known)?;
            from = until;
        }
        if known.is_complete {
            self.judge_missing(asked, seen, &all, known)?;
        }
        Ok(())
    }

    /// Judges the messages between two rewinds. `before` holds the payloads from earlier stretches.
    fn judge_stretch<'a>(
        &mut self,
        asked: &Asked,
        seen: &'a [Seen],
        before: &mut HashSet<&'a [u8]>,
        known: &Known<'_>,
    ) -> Result<(), String> {
        let mut ids = HashSet::new();
        let mut next_offset: HashMap<u64, u64> = HashMap::new();
        let mut copies: HashMap<&[u8], u64> = HashMap::new();
        let mut order: HashMap<(usize, &[u8]), Vec<usize>> = HashMap::new();
        for message in seen {
            let what = format!("{} {:?}", message.id, String::from_utf8_lossy(&message.payload));
            if !ids.insert(&message.id) {
                return Err(format!("{what} came twice"));
            }
            let (partition, offset) =
                parse_id(&message.id).ok_or_else(|| format!("{what} has an invalid id"))?;
            let next = next_offset.entry(partition).or_insert(0);
            if offset < *next {
                return Err(format!("{what} came after a later message of its partition"));
            }
            *next = offset + 1;
            let (producer, sequence) = self.judge_message(asked, message, &what)?;
            let count = copies.entry(&message.payload).or_insert(0);
            *count += 1;
            // If the first copy was lost or has expired, this may be a later copy.
            let may_be_later = self.lost[producer].contains(&sequence)
                || self.producers[producer].may_have_ended(sequence, message.came);
            if *count == 1 && before.insert(&message.payload) && !may_be_later {
                order.entry((producer, Self::key(&message.payload))).or_default().push(sequence);
            }
        }
        for ((producer, key), order) in order {
            if let Some((before, after)) =
                order.iter().zip(&order[1..]).find(|(before, after)| before > after)
            {
                let key = String::from_utf8_lossy(key);
                return Err(format!("producer {producer}, key {key:?}: {after} came after {before}"));
            }
        }
        for (producer, resent) in known.resent.iter().enumerate() {
            let its =
                copies.iter().filter(|(payload, _)| Self::origin(payload).map(|of| of.0) == Some(producer));
            let again: u64 = its.map(|(_, count)| count - 1).sum();
            if again > *resent {
                return Err(format!(
                    "producer {producer}: {again} repeats, but only {resent} were sent again"
                ));
            }
        }
        Ok(())
    }

    /// Judges one message. Returns its producer and its sequence number.
    fn judge_message(&mut self, asked: &Asked, message: &Seen, what: &str) -> Result<(usize, usize), String> {
        let known = self.ids.entry(message.id.clone()).or_insert_with(|| message.payload.clone());
        if *known != message.payload {
            return Err(format!(
                "{what} has the id of another message: {:?}",
                String::from_utf8_lossy(known)
            ));
        }
        let (producer, sequence) =
            Self::origin(&message.payload).ok_or_else(|| format!("{what} was not sent by a producer"))?;
        let of = self.producers.get(producer).ok_or_else(|| format!("{what} was not sent by a producer"))?;
        if of.payloads.get(sequence) != Some(&message.payload) {
            return Err(format!("{what} differs from the message sent"));
        }
        if message.key != Self::key(&message.payload) {
            return Err(format!("{what} has the wrong key {:?}", message.key));
        }
        if message.payload.len() > self.max_payload_bytes {
            return Err(format!("{what} is larger than allowed"));
        }
        if !asked.echo && of.client == asked.client {
            return Err(format!("{what} is an echo that was not requested"));
        }
        if message.ttl != of.ttl || message.age >= message.ttl {
            return Err(format!("{what} has ttl {} and age {}", message.ttl, message.age));
        }
        let age_ms = message.came.get() as i64 - message.timestamp_ms;
        if self.knows_the_time && i64::from(message.age) * 1000 > age_ms {
            return Err(format!("{what} has age {} s only {age_ms} ms after it was stored", message.age));
        }
        Ok((producer, sequence))
    }

    fn judge_missing(
        &self,
        asked: &Asked,
        seen: &[Seen],
        came: &HashSet<&[u8]>,
        known: &Known<'_>,
    ) -> Result<(), String> {
        if let Some(count) = asked.count {
            let is_all = seen.len() as u64 == count;
            return if is_all { Ok(()) } else { Err(format!("{} of {count} messages came", seen.len())) };
        }
        for (number, producer) in self.producers.iter().enumerate() {
            if asked.may_skip || !asked.echo && producer.client == asked.client {
                continue;
            }
            let missing: Vec<usize> = (0..producer.payloads.len())
                .filter(|sequence| self.is_due(number, *sequence, known))
                .filter(|sequence| !came.contains(&producer.payloads[*sequence][..]))
                .collect();
            if !missing.is_empty() {
                let (count, first) = (missing.len(), missing[0]);
                return Err(format!("producer {number}: {count} messages are missing, the first is {first}"));
            }
        }
        Ok(())
    }
}

fn parse_id(id: &str) -> Option<(u64, u64)> {
    let (partition, offset) = id.split_once('.')?;
    Some((u64::from_str_radix(partition, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
}
