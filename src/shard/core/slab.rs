//! Connections by slot. A generation keeps late answers from the next connection in the same slot.

use core::ops::Range;

/// The id of a connection of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The index of its slot.
    pub slot: u32,
    generation: u32,
}

impl ConnectionId {
    /// Returns the id of a number from [`Self::as_u64`].
    pub fn from_u64(number: u64) -> Self {
        Self { slot: (number >> 32) as u32, generation: number as u32 }
    }

    /// Creates the id of a slot's connection with this generation.
    pub fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// Returns how many connections the slot had before.
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// Returns the id as a number. It repeats only after 2^32 connections in the same slot.
    pub fn as_u64(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation)
    }
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in slots, by id.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Inserts a value into a free slot, and returns its id.
    pub fn insert(&mut self, value: T) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[slot as usize];
        entry.value = Some(value);
        ConnectionId { slot, generation: entry.generation }
    }

    /// Removes a value. Its id becomes invalid.
    pub fn remove(&mut self, id: ConnectionId) -> Option<T> {
        let entry =
            self.entries.get_mut(id.slot as usize).filter(|entry| entry.generation == id.generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(value)
    }

    /// Returns the value of a valid id, mutably.
    #[inline]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        self.entries
            .get_mut(id.slot as usize)
            .filter(|entry| entry.generation == id.generation)
            .and_then(|entry| entry.value.as_mut())
    }

    /// Returns the value of a valid id.
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        self.entries
            .get(id.slot as usize)
            .filter(|entry| entry.generation == id.generation)
            .and_then(|entry| entry.value.as_ref())
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the ids of all values.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.ids_within(0..self.slots())
    }

    /// Returns the number of slots, with those that are free.
    pub fn slots(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Returns the ids of all values in some of the slots. Visits no other.
    pub fn ids_within(&self, slots: Range<u32>) -> impl Iterator<Item = ConnectionId> + '_ {
        let end = slots.end.min(self.slots());
        let start = slots.start.min(end);
        let within = self.entries[start as usize..end as usize].iter().zip(start..);
        within
            .filter(|(entry, _)| entry.value.is_some())
            .map(|(entry, slot)| ConnectionId { slot, generation: entry.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_does_not_reach_the_next_value_in_its_slot() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(second.slot, first.slot);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!((slab.len(), slab.ids().next()), (1, Some(second)));
    }

    #[test]
    fn a_range_of_slots_has_the_ids_of_its_values_only() {
        let mut slab = Slab::default();
        let ids: Vec<_> = (0..5).map(|value| slab.insert(value)).collect();
        slab.remove(ids[2]);
        let within = |range| slab.ids_within(range).collect::<Vec<_>>();
        assert_eq!(within(1..4), [ids[1], ids[3]]);
        assert_eq!((within(4..9), within(5..9)), (vec![ids[4]], vec![]));
        assert_eq!(ids[3], ConnectionId::new(3, ids[3].generation()));
    }
}
