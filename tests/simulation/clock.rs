//! The machine's clocks: a monotonic one, and a wall clock that may be wrong.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use millstream::base::millis::{Millis, UnixMillis};

/// Unix time when the machine starts.
const START_UNIX: UnixMillis = UnixMillis::new(1_700_000_000_000);

/// See the module's page. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    mono_ns: Cell<u64>,
    /// How long a look takes.
    look_ns: u64,
    /// By how much the wall clock is wrong, milliseconds.
    error_ms: Cell<i64>,
}

impl Clock {
    /// A clock that is right. A look at it takes `look_ns`.
    pub fn new(look_ns: u64) -> Self {
        Self(Rc::new(Inner { mono_ns: Cell::new(1_000_000), look_ns, error_ms: Cell::new(0) }))
    }

    /// A shard's look at the monotonic clock.
    pub fn look(&self) -> Duration {
        self.0.mono_ns.set(self.0.mono_ns.get() + self.0.look_ns);
        self.mono()
    }

    /// The monotonic clock.
    pub fn mono(&self) -> Duration {
        Duration::from_nanos(self.0.mono_ns.get())
    }

    /// The monotonic clock in whole milliseconds.
    pub fn millis(&self) -> Millis {
        Millis::from(self.mono())
    }

    /// Unix time as it is, milliseconds.
    pub fn true_unix(&self) -> UnixMillis {
        START_UNIX + self.millis()
    }

    /// Unix time as the system says it, milliseconds.
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
