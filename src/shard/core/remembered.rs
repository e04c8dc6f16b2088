//! What a shard remembers of credentials, by key, for a time.

use std::collections::{HashMap, VecDeque};

use crate::auth::Key;
use crate::base::millis::Millis;

/// Values by key, at most a fixed number. Each ends at its own time, and use never prolongs that. The oldest one
/// makes room for another.
#[derive(Debug)]
pub(super) struct Remembered<V> {
    values: HashMap<Key, Value<V>>,
    /// The keys in the order in which they were inserted, with the numbers of their values. A key whose value has
    /// another number was inserted again.
    order: VecDeque<(Key, u64)>,
    inserted: u64,
    most: usize,
}

#[derive(Debug)]
struct Value<V> {
    value: V,
    until: Millis,
    number: u64,
}

impl<V> Remembered<V> {
    /// Creates an empty memory for at most `most` values.
    pub(super) fn new(most: usize) -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), inserted: 0, most }
    }

    /// Returns the value of a key, if its time is not over.
    pub(super) fn get(&self, key: &Key, now: Millis) -> Option<&V> {
        self.values.get(key).filter(|value| now < value.until).map(|value| &value.value)
    }

    /// Remembers a value until a time, in place of an earlier one of the key.
    pub(super) fn insert(&mut self, key: Key, value: V, until: Millis) {
        self.inserted += 1;
        let number = self.inserted;
        self.values.insert(key, Value { value, until, number });
        self.order.push_back((key, number));
        while self.order.len() > self.most {
            let Some((key, number)) = self.order.pop_front() else { break };
            if self.values.get(&key).is_some_and(|value| value.number == number) {
                self.values.remove(&key);
            }
        }
    }

    /// Lets go of the values whose time is over.
    pub(super) fn purge(&mut self, now: Millis) {
        self.values.retain(|_, value| now < value.until);
        let values = &self.values;
        self.order.retain(|(key, number)| values.get(key).is_some_and(|value| value.number == *number));
    }

    /// Returns whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Forgets a key.
    pub(super) fn remove(&mut self, key: &Key) {
        self.values.remove(key);
    }

    /// Replaces the value of a remembered key. Its time ends no later than before.
    pub(super) fn replace(&mut self, key: &Key, value: V, until: Option<Millis>) {
        if let Some(remembered) = self.values.get_mut(key) {
            remembered.value = value;
            remembered.until = until.map_or(remembered.until, |until| until.min(remembered.until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Credential, Keyer};
    use crate::base::secret::Secret;
    use proptest::prelude::*;

    fn key(number: u8) -> Key {
        Keyer::fixed().key(&Credential::Token(Secret::new(&number.to_string())))
    }

    fn at(ms: u64) -> Millis {
        Millis::new(ms)
    }

    #[test]
    fn use_does_not_prolong_a_value() {
        let mut remembered = Remembered::new(4);
        remembered.insert(key(1), 'a', at(10));
        for now in 0..10 {
            assert_eq!(remembered.get(&key(1), at(now)), Some(&'a'));
        }
        assert_eq!(remembered.get(&key(1), at(10)), None);
    }

    #[test]
    fn a_value_whose_time_is_over_is_let_go() {
        let mut remembered = Remembered::new(4);
        remembered.insert(key(1), 'a', at(10));
        remembered.insert(key(2), 'b', at(20));
        remembered.insert(key(1), 'c', at(12));
        remembered.purge(at(15));
        assert_eq!((remembered.values.len(), remembered.order.len()), (1, 1));
        remembered.purge(at(20));
        assert!(remembered.is_empty() && remembered.order.is_empty());
    }

    #[test]
    fn a_replaced_value_ends_no_later_than_before() {
        let mut remembered = Remembered::new(4);
        remembered.insert(key(1), 'a', at(10));
        remembered.replace(&key(1), 'b', Some(at(20)));
        assert_eq!((remembered.get(&key(1), at(9)), remembered.get(&key(1), at(10))), (Some(&'b'), None));
        remembered.insert(key(1), 'c', at(30));
        remembered.replace(&key(1), 'd', Some(at(20)));
        assert_eq!(remembered.get(&key(1), at(20)), None);
        remembered.replace(&key(2), 'e', None);
        assert_eq!(remembered.get(&key(2), at(0)), None, "only what is remembered is replaced");
    }

    proptest! {
        #[test]
        fn the_newest_values_are_kept_and_memory_is_bounded(
            steps in proptest::collection::vec((0u8..8, 0u64..20, any::<bool>()), 0..60),
        ) {
            let most = 5;
            let mut remembered = Remembered::new(most);
            let mut inserted: Vec<(u8, u64)> = Vec::new();
            for (step, (number, until, inserts)) in steps.into_iter().enumerate() {
                if inserts {
                    remembered.insert(key(number), step, at(until));
                    inserted.push((number, until));
                } else {
                    remembered.remove(&key(number));
                    inserted.iter_mut().filter(|(one, _)| *one == number).for_each(|one| one.1 = 0);
                }
                prop_assert!(remembered.values.len() <= most && remembered.order.len() <= most);
                for number in 0..8 {
                    let newest = inserted.iter().rev().take(most).find(|(one, _)| *one == number);
                    let expected = newest.is_some_and(|(_, until)| *until > 0);
                    prop_assert_eq!(remembered.get(&key(number), at(0)).is_some(), expected);
                }
            }
        }
    }
}
