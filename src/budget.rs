//! The byte budget of a shard: what its connections may hold at once.
//!
//! Plain arithmetic on the shard's own thread. Two kinds of bytes:
//!
//! - **reserved**, before they are accepted: pbs and append batches. Never above the ceiling; given back by the store's
//!   answer or by `pb_timeout`, whatever the peer does.
//! - **held**, because they exist already: what was read and waits for a reservation, what the socket did not take.
//!   Given back when the peer reads, or when a reservation is made. They never keep anybody from reserving: else
//!   those who wait for memory would block themselves, and a peer that does not read would block all others. They
//!   count as pressure, under which reads and send buffers shrink.
//!
//! Worst case: the ceiling, and as much again held before the pressure was felt.

/// See the module's page. Invariants: `reserved` and `held` are the sums of what was taken and not given back; `reserved`
/// is at most `ceiling`.
#[derive(Debug)]
pub struct Budget {
    ceiling: usize,
    reserved: usize,
    held: usize,
    /// Connections that wait for bytes. While there are any, newcomers wait behind them.
    waiting: usize,
}

impl Budget {
    /// A budget of `ceiling` bytes.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, reserved: 0, held: 0, waiting: 0 }
    }

    /// Takes `bytes` if there is room and nobody waits.
    #[must_use]
    pub fn try_reserve(&mut self, bytes: usize) -> bool {
        let fits = self.waiting == 0 && self.fits(bytes);
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// Gives reserved bytes back.
    pub fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.reserved, "more released than reserved");
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Counts bytes that exist already.
    pub fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// They exist no longer.
    pub fn drop_held(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.held, "more dropped than held");
        self.held = self.held.saturating_sub(bytes);
    }

    /// How many connections wait; kept by the shard, which owns the queue of them.
    pub fn set_waiting(&mut self, connections: usize) {
        self.waiting = connections;
    }

    /// Whether `bytes` would fit for the first that waits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.reserved + bytes <= self.ceiling
    }

    /// Whether credit must not grow.
    pub fn is_tight(&self) -> bool {
        self.waiting > 0 || self.reserved >= self.ceiling / 8 * 7
    }

    /// Whether reads and send buffers must shrink.
    pub fn is_pressed(&self) -> bool {
        self.is_tight() || self.reserved + self.held >= self.ceiling / 8 * 7
    }

    /// Bytes reserved now.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The ceiling, bytes.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }
}
