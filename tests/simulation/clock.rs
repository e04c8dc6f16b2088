//! The machine's clocks: a monotonic one, and a wall clock that may be wrong.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use millstream::base::millis::{Millis, UnixMillis};

/// The Unix time when the machine starts.
const START_UNIX: UnixMillis = UnixMillis::new(1_700_000_000_000);

/// The machine's clocks. Clones share the same time.
#[derive(Clone, Debug)]
pub struct Clock(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    mono_ns: Cell<u64>,
    /// How far each reading advances the time.
    look_ns: u64,
    /// The error of the wall clock, in milliseconds.
    error_ms: Cell<i64>,
}

impl Clock {
    /// Creates clocks without error. Each `look` advances the time by `look_ns`.
    pub fn new(look_ns: u64) -> Self {
        Self(Rc::new(Inner { mono_ns: Cell::new(1_000_000), look_ns, error_ms: Cell::new(0) }))
    }

    /// Reads the monotonic clock, which takes time.
    pub fn look(&self) -> Duration {
        self.0.mono_ns.set(self.0.mono_ns.get() + self.0.look_ns);
        self.mono()
    }

    /// Returns the monotonic time.
    pub fn mono(&self) -> Duration {
        Duration::from_nanos(self.0.mono_ns.get())
    }

    /// Returns the time of the monotonic clock in whole milliseconds.
    pub fn millis(&self) -> Millis {
        Millis::from(self.mono())
    }

    /// Returns the true Unix time, in milliseconds.
    pub fn true_unix(&self) -> UnixMillis {
        START_UNIX + self.millis()
    }

    /// Returns the Unix time of the system's wall clock, in milliseconds.
    pub fn unix(&self) -> UnixMillis {
        UnixMillis::new(self.true_unix().get().saturating_add_signed(self.0.error_ms.get()))
    }

    pub fn set_error_ms(&self, error_ms: i64) {
        self.0.error_ms.set(error_ms);
    }

    pub fn pass(&self, length: Millis) {
        self.0.mono_ns.set(self.0.mono_ns.get() + length.as_nanos());
    }
}
