//! Connections by slot, with a generation: a late answer cannot reach a later tenant of the slot.

/// A connection of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Its place.
    pub slot: u32,
    generation: u32,
}

impl ConnectionId {
    /// As a number; no two connections of a shard share it for 2^32 tenants of a slot.
    pub fn as_u64(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation)
    }
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// See the module's page.
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
    /// Puts a value into a free slot.
    pub fn insert(&mut self, value: T) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[slot as usize];
        entry.value = Some(value);
        ConnectionId { slot, generation: entry.generation }
    }

    /// Takes a value out; its id means nothing from now on.
    pub fn remove(&mut self, id: ConnectionId) -> Option<T> {
        let entry =
            self.entries.get_mut(id.slot as usize).filter(|entry| entry.generation == id.generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(value)
    }

    /// The value of an id that still means something.
    #[inline]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        self.entries
            .get_mut(id.slot as usize)
            .filter(|entry| entry.generation == id.generation)
            .and_then(|entry| entry.value.as_mut())
    }

    /// The same, shared.
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        self.entries
            .get(id.slot as usize)
            .filter(|entry| entry.generation == id.generation)
            .and_then(|entry| entry.value.as_ref())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of all.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.value.is_some())
            .map(|(slot, entry)| ConnectionId { slot: slot as u32, generation: entry.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_does_not_reach_the_slots_next_tenant() {
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
}
