//! What the clients may have seen, said without a line of the server's code.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::client::Seen;

/// Producers' messages as they were handed to their clients.
pub struct Model {
    /// Of each producer: its Client-ID, its payloads in order.
    pub producers: Vec<(u128, Vec<Vec<u8>>)>,
    pub max_payload_bytes: usize,
    /// Which payload an id stands for, whoever saw it.
    ids: BTreeMap<String, Vec<u8>>,
}

/// What a consumer asked for.
pub struct Asked {
    pub client: u128,
    pub echo: bool,
    pub count: Option<u64>,
}

impl Model {
    /// Of every message, seconds: longer than any history.
    pub const TTL: u32 = 600;

    pub fn new(max_payload_bytes: usize) -> Self {
        Self { producers: Vec::new(), max_payload_bytes, ids: BTreeMap::new() }
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

    /// Judges what one consumer saw; `resent`: messages that each producer's client has sent again; `complete`: it
    /// had the time to see everything.
    pub fn judge(
        &mut self,
        asked: &Asked,
        seen: &[Seen],
        resent: &[u64],
        complete: bool,
    ) -> Result<(), String> {
        let mut ids = HashSet::new();
        let mut next_offset: HashMap<u64, u64> = HashMap::new();
        let mut copies: HashMap<&[u8], u64> = HashMap::new();
        let mut first_copies: Vec<HashMap<&[u8], Vec<usize>>> = vec![HashMap::new(); self.producers.len()];
        for message in seen {
            let what = format!("{} {:?}", message.id, String::from_utf8_lossy(&message.payload));
            if !ids.insert(message.id.clone()) {
                return Err(format!("{what} came twice"));
            }
            let known = self.ids.entry(message.id.clone()).or_insert_with(|| message.payload.clone());
            if *known != message.payload {
                return Err(format!("{what} was another message elsewhere"));
            }
            let Some((partition, offset)) = message.id.split_once('.').and_then(|(partition, offset)| {
                Some((u64::from_str_radix(partition, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
            }) else {
                return Err(format!("{what} has no id of the protocol"));
            };
            let next = next_offset.entry(partition).or_insert(0);
            if offset < *next {
                return Err(format!("{what} came behind a later one of its partition"));
            }
            *next = offset + 1;
            let Some((producer, sequence)) = Self::origin(&message.payload) else {
                return Err(format!("{what} was sent by nobody"));
            };
            if self.producers.get(producer).and_then(|(_, sent)| sent.get(sequence)) != Some(&message.payload)
            {
                return Err(format!("{what} was never sent so"));
            }
            if message.key != Self::key(&message.payload) {
                return Err(format!("{what} has the key {:?}", message.key));
            }
            if message.payload.len() > self.max_payload_bytes {
                return Err(format!("{what} is larger than what may be stored"));
            }
            if !asked.echo && self.producers[producer].0 == asked.client {
                return Err(format!("{what} is an echo that was not asked for"));
            }
            if message.ttl != Self::TTL || message.age >= message.ttl {
                return Err(format!("{what} has ttl {} and age {}", message.ttl, message.age));
            }
            let count = copies.entry(&message.payload).or_insert(0);
            *count += 1;
            if *count == 1 {
                first_copies[producer].entry(Self::key(&message.payload)).or_default().push(sequence);
            }
        }
        for (producer, (client, sent)) in self.producers.iter().enumerate() {
            let again: u64 = copies
                .iter()
                .filter(|(payload, _)| Self::origin(payload).is_some_and(|(of, _)| of == producer))
                .map(|(_, count)| count - 1)
                .sum();
            if again > resent[producer] {
                return Err(format!("producer {producer}: {again} repeats, {} sent again", resent[producer]));
            }
            let of_producer = &first_copies[producer];
            for (key, order) in of_producer {
                if !order.is_sorted() {
                    return Err(format!("producer {producer}, key {key:?}: out of order: {order:?}"));
                }
            }
            let wanted = asked.echo || *client != asked.client;
            if complete && asked.count.is_none() && wanted {
                let all = sent.iter().filter(|payload| payload.len() <= self.max_payload_bytes).count();
                let came: usize = of_producer.values().map(Vec::len).sum();
                if came != all {
                    return Err(format!("producer {producer}: {came} of {all} messages came"));
                }
            }
        }
        if asked.count.is_some_and(|count| complete && seen.len() as u64 != count) {
            return Err(format!("{} messages came, {:?} were asked for", seen.len(), asked.count));
        }
        Ok(())
    }
}
