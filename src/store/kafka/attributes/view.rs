//! The attributes topic as it was read: the last record of each queue.

use std::collections::HashMap;
use std::ffi::{CStr, CString};

use super::record::Record;
use crate::base::attributes::Attributes;

/// How many unreadable records are logged one by one.
const LOGGED_MAX: u64 = 10;

type Records = HashMap<CString, Record>;

/// The last record of each queue. Its memory is that of the attributes of all queues, at most 64 KiB for each.
#[derive(Debug, Default)]
pub struct View {
    records: Records,
    /// The records since the topic is read from its beginning, which has not come to the end. `records` stay in use
    /// meanwhile.
    again: Option<Records>,
    /// Whether the topic was read to its end once.
    is_whole: bool,
    /// The offset after the last record.
    next: i64,
    unreadable: u64,
}

impl View {
    /// Returns whether the attributes of every queue are known.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns the attributes of the queue that has the topic with this name and id.
    pub fn get(&self, topic: &CStr, topic_id: u128) -> Attributes {
        let record = self.records.get(topic).filter(|record| record.topic_id == topic_id);
        record.map(|record| record.attributes.clone()).unwrap_or_default()
    }

    /// Returns the offset below which everything was read; 0 while the topic is being read from its beginning.
    pub fn read_below(&self) -> i64 {
        if self.again.is_some() { 0 } else { self.next }
    }

    /// Handles that the topic is read from its beginning.
    pub fn handle_start(&mut self) {
        (self.again, self.next) = (Some(HashMap::new()), 0);
    }

    /// Handles the next record. Returns the topics whose records may have changed.
    pub fn handle_record(&mut self, offset: i64, key: &[u8], value: &[u8]) -> Option<CString> {
        if offset < self.next {
            tracing::warn!(
                offset,
                expected = self.next,
                "the attributes topic has gone back; reading it again"
            );
            self.handle_start();
        }
        self.next = offset + 1;
        let Ok(topic) = CString::new(key) else {
            self.log(offset, "", "its key is no name of a topic");
            return None;
        };
        let record = match value {
            [] => None,
            // A record that cannot be read counts as none, so that all servers agree also after it has replaced the one
            // before.
            value => {
                Record::decode(value).inspect_err(|why| self.log(offset, &topic.to_string_lossy(), why)).ok()
            }
        };
        let to = self.again.as_mut().unwrap_or(&mut self.records);
        match record {
            Some(record) => drop(to.insert(topic.clone(), record)),
            None => drop(to.remove(&topic)),
        }
        self.again.is_none().then_some(topic)
    }

    /// Handles that the topic was read to its end. Returns the topics whose records may have changed.
    pub fn handle_end(&mut self, end: i64) -> Vec<CString> {
        self.next = self.next.max(end);
        let Some(records) = self.again.take() else { return Vec::new() };
        let before = std::mem::replace(&mut self.records, records);
        self.is_whole = true;
        let changed = self.records.iter().filter(|(topic, record)| before.get(*topic) != Some(record));
        let gone = before.keys().filter(|topic| !self.records.contains_key(*topic));
        changed.map(|(topic, _)| topic).chain(gone).cloned().collect()
    }

    fn log(&mut self, offset: i64, topic: &str, why: &str) {
        self.unreadable += 1;
        if self.unreadable <= LOGGED_MAX {
            tracing::error!(
                offset,
                topic,
                why,
                "a record of the attributes topic is unreadable: the queue counts as without attributes"
            );
        } else if self.unreadable == LOGGED_MAX + 1 {
            tracing::error!("further unreadable records of the attributes topic are not logged");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ttl: u32) -> Attributes {
        Attributes::parse_stored(format!(r#"{{"_default_message_ttl":{ttl}}}"#).as_bytes()).unwrap()
    }

    fn value(topic_id: u128, ttl: u32) -> Vec<u8> {
        Record { topic_id, attributes: of(ttl) }.encode()
    }

    /// Returns a view that was read to the end of a topic with these records.
    fn read(records: &[(&[u8], &[u8])]) -> View {
        let mut view = View::default();
        view.handle_start();
        for (offset, (key, value)) in (0..).zip(records) {
            assert_eq!(view.handle_record(offset, key, value), None);
            assert!(!view.is_whole());
        }
        view.handle_end(records.len() as i64);
        assert!(view.is_whole());
        view
    }

    #[test]
    fn the_last_record_counts_for_its_own_queue_and_topic() {
        let mut view = read(&[(b"p.q", &value(7, 60)), (b"p.r", &value(7, 61)), (b"p.q", &value(7, 62))]);
        assert_eq!((view.get(c"p.q", 7), view.get(c"p.r", 7)), (of(62), of(61)));
        // A topic that was recreated is another queue.
        assert_eq!(view.get(c"p.q", 8), Attributes::default());
        assert_eq!(view.handle_record(3, b"p.q", &value(8, 63)).as_deref(), Some(c"p.q"));
        assert_eq!((view.get(c"p.q", 7), view.get(c"p.q", 8)), (Attributes::default(), of(63)));
        assert_eq!(view.handle_record(4, b"p.q", b"").as_deref(), Some(c"p.q"));
        assert_eq!(view.get(c"p.q", 8), Attributes::default());
        assert_eq!((view.get(c"p.r", 7), view.read_below()), (of(61), 5));
    }

    #[test]
    fn an_unreadable_record_harms_only_its_own_queue() {
        let view = read(&[
            (b"p.q", &value(7, 60)),
            (b"p.r", &value(7, 61)),
            (b"p.q", b"{"),
            (b"a\0b", &value(7, 62)),
            (b"", b"\xff"),
        ]);
        assert_eq!((view.get(c"p.q", 7), view.get(c"p.r", 7)), (Attributes::default(), of(61)));
        assert_eq!((view.unreadable, view.read_below()), (3, 5));
    }

    #[test]
    fn a_topic_that_was_recreated_is_read_again_while_the_old_records_count() {
        let mut view = read(&[(b"p.q", &value(7, 60)), (b"p.r", &value(7, 61)), (b"p.s", &value(7, 62))]);
        assert_eq!(view.handle_record(0, b"p.q", &value(7, 60)), None);
        assert_eq!(view.handle_record(1, b"p.r", &value(7, 70)), None);
        assert_eq!((view.get(c"p.r", 7), view.read_below()), (of(61), 0));
        let mut changed = view.handle_end(2);
        changed.sort();
        assert_eq!(changed, [c"p.r".to_owned(), c"p.s".to_owned()]);
        assert_eq!((view.get(c"p.r", 7), view.get(c"p.s", 7)), (of(70), Attributes::default()));
        assert_eq!(view.read_below(), 2);
    }
}
