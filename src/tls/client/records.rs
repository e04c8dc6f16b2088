//! Records that wait to be sent.

/// A buffer of records. What it has sent is overwritten, so that the buffer is cleared only where it grows.
#[derive(Debug, Default)]
pub struct Records {
    /// The records are at `from..until`. The bytes after them are free.
    buffer: Vec<u8>,
    from: usize,
    until: usize,
}

impl Records {
    /// Returns the bytes that wait to be sent.
    pub fn waiting(&self) -> &[u8] {
        &self.buffer[self.from..self.until]
    }

    /// Returns whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.from == self.until
    }

    /// Removes the first `bytes` bytes, which were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.from = (self.from + bytes).min(self.until);
        if self.is_empty() {
            (self.from, self.until) = (0, 0);
        }
    }

    /// Returns the free bytes after the records. A record that is written there counts once it is added.
    pub(super) fn free(&mut self) -> &mut [u8] {
        &mut self.buffer[self.until..]
    }

    /// Makes at least `bytes` bytes free.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.buffer.resize(self.buffer.len().max(self.until + bytes), 0);
    }

    /// Adds the first `bytes` free bytes.
    pub(super) fn add(&mut self, bytes: usize) {
        self.until = (self.until + bytes).min(self.buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(records: &mut Records, bytes: &[u8]) {
        records.reserve(bytes.len());
        records.free()[..bytes.len()].copy_from_slice(bytes);
        records.add(bytes.len());
    }

    #[test]
    fn records_leave_in_order_and_their_room_is_used_again() {
        let mut records = Records::default();
        write(&mut records, b"abc");
        records.sent(2);
        write(&mut records, b"def");
        assert_eq!(records.waiting(), b"cdef");
        records.sent(4);
        assert!(records.is_empty() && records.free().len() == 6);
        write(&mut records, b"ghijkl");
        assert_eq!(records.waiting(), b"ghijkl");
        assert!(records.free().is_empty());
    }
}
