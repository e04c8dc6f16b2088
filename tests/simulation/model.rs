//! What the clients may have seen, said without a line of the server's code.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use millstream::base::millis::{Millis, UnixMillis};

/// One message as a consumer saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub payload: Vec<u8>,
    pub key: Vec<u8>,
    pub age: u32,
    pub ttl: u32,
    pub timestamp_ms: i64,
    /// The true Unix time when it came.
    pub came: UnixMillis,
}

/// When each of a producer's messages was handed to its client, in true Unix time, milliseconds.
pub type Handed = Rc<RefCell<Vec<UnixMillis>>>;

/// A producer, and what it sends.
pub struct Producer {
    pub client: u128,
    /// Of its messages, seconds.
    pub ttl: u32,
    pub payloads: Vec<Vec<u8>>,
    pub handed: Handed,
}

impl Producer {
    /// Whether the TTL of a message's first copy may have ended by then. Clocks that jump make no message end earlier.
    fn may_have_ended(&self, sequence: usize, now: UnixMillis) -> bool {
        let handed = self.handed.borrow().get(sequence).copied().unwrap_or(UnixMillis::MAX);
        now >= handed + Millis::from_secs(self.ttl)
    }
}

/// What a consumer asked for, and what befell it.
pub struct Asked {
    pub client: u128,
    pub echo: bool,
    pub count: Option<u64>,
    /// Each time that the store went back, how much it had seen. From there on messages may come again.
    pub rewinds: Vec<usize>,
    /// A wrong clock may have hidden messages from it.
    pub may_skip: bool,
}

impl Asked {
    pub fn new(client: u128, echo: bool, count: Option<u64>) -> Self {
        Self { client, echo, count, rewinds: Vec::new(), may_skip: false }
    }
}

/// What the clients know of the producers' messages when somebody is judged.
pub struct Known<'a> {
    /// How many of each producer's messages have their fate, in order. They were stored or refused.
    pub settled: &'a [usize],
    /// How many messages each producer's client has sent again.
    pub resent: &'a [u64],
    /// The true Unix time, milliseconds.
    pub now: UnixMillis,
    /// The consumer had the time to see everything.
    pub is_complete: bool,
}

/// What may be missing for good, by producer: numbers of messages.
pub type Lost = Vec<BTreeSet<usize>>;

/// See the module's page.
pub struct Model {
    pub producers: Vec<Producer>,
    pub max_payload_bytes: usize,
    /// Servers know the true time: timestamps and ages say it.
    pub knows_the_time: bool,
    pub lost: Lost,
    /// Which payload an id stands for, whoever saw it, for ever.
    ids: BTreeMap<String, Vec<u8>>,
}

impl Model {
    pub const QUEUE: &str = "simulated";
    /// Of most messages, seconds: longer than any storm.
    pub const TTL: u32 = 600;
    /// The shortest that the server takes.
    pub const SHORT_TTL: u32 = 60;

    pub fn new(max_payload_bytes: usize, knows_the_time: bool) -> Self {
        let (producers, lost, ids) = (Vec::new(), Lost::new(), BTreeMap::new());
        Self { producers, max_payload_bytes, knows_the_time, lost, ids }
    }

    pub fn add(&mut self, client: u128, ttl: u32, payloads: Vec<Vec<u8>>) {
        self.producers.push(Producer { client, ttl, payloads, handed: Handed::default() });
        self.lost.push(BTreeSet::new());
    }

    /// A payload that names its producer and its place: `producer:sequence:padding`.
    pub fn payload(producer: usize, sequence: usize, padding: usize) -> Vec<u8> {
        format!("{producer}:{sequence}:{}", ".".repeat(padding)).into_bytes()
    }

    fn origin(payload: &[u8]) -> Option<(usize, usize)> {
        let text = std::str::from_utf8(payload).ok()?;
        let mut parts = text.split(':');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// The key of a message: those of every second producer have one of three, or none.
    pub fn key(payload: &[u8]) -> &'static [u8] {
        const KEYS: [&[u8]; 4] = [b"a", b"", b"another", b"c"];
        match Self::origin(payload) {
            Some((producer, sequence)) if producer % 2 == 1 => KEYS[sequence % KEYS.len()],
            _ => b"",
        }
    }

    /// How many of a producer's messages are not too large.
    pub fn storable(&self, producer: usize) -> usize {
        let payloads = self.producers[producer].payloads.iter();
        payloads.filter(|payload| payload.len() <= self.max_payload_bytes).count()
    }

    /// The store goes back to what it held when so many messages were settled, and `lost` were lost.
    pub fn handle_rollback(&mut self, then: &[usize], lost: &Lost, now: &[usize]) {
        self.lost.clone_from(lost);
        for (lost, (then, now)) in self.lost.iter_mut().zip(then.iter().zip(now)) {
            lost.extend(*then..*now);
        }
    }

    /// Everything that was handed to the clients so far may be gone.
    pub fn lose_all(&mut self) {
        for (producer, lost) in self.producers.iter().zip(&mut self.lost) {
            lost.extend(0..producer.handed.borrow().len());
        }
    }

    /// A stretch of a file cannot be read any more. The messages whose payloads stand there may be gone.
    pub fn lose_stretch(&mut self, bytes: &[u8]) {
        // Digits, a colon, digits, a colon: a payload's beginning, or what looks like one.
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

    /// Whether a message must reach a consumer that had the time.
    fn is_due(&self, producer: usize, sequence: usize, known: &Known<'_>) -> bool {
        let of = &self.producers[producer];
        sequence < known.settled[producer]
            && of.payloads[sequence].len() <= self.max_payload_bytes
            && !of.may_have_ended(sequence, known.now)
            && !self.lost[producer].contains(&sequence)
    }

    /// Judges what one consumer saw.
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

    /// Judges what came without a rewind between; `before`: what came before that.
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
                parse_id(&message.id).ok_or_else(|| format!("{what} has no id of the protocol"))?;
            let next = next_offset.entry(partition).or_insert(0);
            if offset < *next {
                return Err(format!("{what} came behind a later one of its partition"));
            }
            *next = offset + 1;
            let (producer, sequence) = self.judge_message(asked, message, &what)?;
            let count = copies.entry(&message.payload).or_insert(0);
            *count += 1;
            // Of what was lost, or has ended, a later copy may be left.
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
                return Err(format!("producer {producer}, key {key:?}: {after} came behind {before}"));
            }
        }
        for (producer, resent) in known.resent.iter().enumerate() {
            let its =
                copies.iter().filter(|(payload, _)| Self::origin(payload).map(|of| of.0) == Some(producer));
            let again: u64 = its.map(|(_, count)| count - 1).sum();
            if again > *resent {
                return Err(format!("producer {producer}: {again} repeats, {resent} sent again"));
            }
        }
        Ok(())
    }

    /// Judges one message: its producer and its place among that one's.
    fn judge_message(&mut self, asked: &Asked, message: &Seen, what: &str) -> Result<(usize, usize), String> {
        let known = self.ids.entry(message.id.clone()).or_insert_with(|| message.payload.clone());
        if *known != message.payload {
            return Err(format!(
                "{what} was another message elsewhere: {:?}",
                String::from_utf8_lossy(known)
            ));
        }
        let (producer, sequence) =
            Self::origin(&message.payload).ok_or_else(|| format!("{what} was sent by nobody"))?;
        let of = self.producers.get(producer).ok_or_else(|| format!("{what} was sent by nobody"))?;
        if of.payloads.get(sequence) != Some(&message.payload) {
            return Err(format!("{what} was never sent so"));
        }
        if message.key != Self::key(&message.payload) {
            return Err(format!("{what} has the key {:?}", message.key));
        }
        if message.payload.len() > self.max_payload_bytes {
            return Err(format!("{what} is larger than what may be stored"));
        }
        if !asked.echo && of.client == asked.client {
            return Err(format!("{what} is an echo that was not asked for"));
        }
        if message.ttl != of.ttl || message.age >= message.ttl {
            return Err(format!("{what} has ttl {} and age {}", message.ttl, message.age));
        }
        let age_ms = message.came.get() as i64 - message.timestamp_ms;
        if self.knows_the_time && i64::from(message.age) * 1000 > age_ms {
            return Err(format!("{what} is {} s old after {age_ms} ms", message.age));
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
            return if is_all { Ok(()) } else { Err(format!("{} messages of {count} came", seen.len())) };
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
