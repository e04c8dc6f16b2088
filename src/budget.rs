//! The byte budget of a shard: what its connections may hold at once, in pbs, append batches and send buffers.
//!
//! Plain arithmetic on the shard's own thread. Reserving comes before accepting; bytes that exist already
//! (a receive buffer's rest, an encoded response) are `force`d, which may overdraw: nobody else then gets any
//! until it is paid back.

/// See the module's page. Invariant: `reserved` is the sum of all reservations that are not released.
#[derive(Debug)]
pub struct Budget {
    ceiling: usize,
    reserved: usize,
    /// Connections that wait for bytes. While there are any, newcomers wait behind them.
    waiting: usize,
}

impl Budget {
    /// A budget of `ceiling` bytes.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, reserved: 0, waiting: 0 }
    }

    /// Takes `bytes` if there is room and nobody waits.
    #[must_use]
    pub fn try_reserve(&mut self, bytes: usize) -> bool {
        let fits = self.waiting == 0 && self.reserved + bytes <= self.ceiling;
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// Takes `bytes` that exist already.
    pub fn force(&mut self, bytes: usize) {
        self.reserved += bytes;
    }

    /// Gives bytes back.
    pub fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.reserved, "more released than reserved");
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// How many connections wait; kept by the shard, which owns the queue of them.
    pub fn set_waiting(&mut self, connections: usize) {
        self.waiting = connections;
    }

    /// Whether `bytes` would fit for the first that waits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.reserved + bytes <= self.ceiling
    }

    /// Whether credit must not grow, and reads and sends shrink.
    pub fn is_tight(&self) -> bool {
        self.waiting > 0 || self.reserved >= self.ceiling / 8 * 7
    }

    /// Bytes reserved now.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// The ceiling, bytes.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }
}
