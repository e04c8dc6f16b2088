//! The mean size of recent messages.

/// The sizes of recent messages. Each request lets earlier ones fade by a sixteenth.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    messages_x16: u64,
    bytes_x16: u64,
}

impl Sizes {
    #[inline]
    pub(super) fn add(&mut self, messages: u64, bytes: u64) {
        self.messages_x16 = self.messages_x16 - self.messages_x16 / 16 + 16 * messages;
        self.bytes_x16 = self.bytes_x16 - self.bytes_x16 / 16 + 16 * bytes;
    }

    /// Returns sixteen times the mean, in bytes, or `None` before the first message.
    pub(super) fn mean_x16(self) -> Option<u64> {
        (16 * self.bytes_x16).checked_div(self.messages_x16).map(|mean_x16| mean_x16.max(1))
    }
}
