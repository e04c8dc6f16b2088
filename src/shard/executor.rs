//! The settings of every glommio executor, with the reason for each.
//!
//! Runs once for each executor, on the thread that starts it.

use std::time::Duration;

use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement, PoolPlacement};

/// Below 10 ms glommio 0.9 loses wake-ups: about one in 200,000 at 1 ms, none in 400,000 at 10 ms. The driver
/// makes its own passes of the reactor, so nothing waits for this timer.
const PREEMPT_TIMER: Duration = Duration::from_millis(10);

/// The number of entries of each of the three rings. With fewer, glommio preempts a shard that has as many
/// busy sockets.
pub(super) const RING_DEPTH: usize = 1024;

/// Registered memory of each ring, in bytes: glommio's minimum. Sockets do not use it, and the default of 10
/// MiB would lock 30 MiB for each shard.
pub(super) const IO_MEMORY: usize = 64 << 10;

/// The name and the place of an executor.
#[derive(Clone, Debug)]
pub struct ExecutorSettings {
    /// The thread's name, as `top -H` shows it.
    pub name: String,
    /// The core that it is pinned to. `None` for a client, which may run anywhere.
    pub core: Option<usize>,
}

/// Starts an executor that runs the future of `make` to its end.
pub fn spawn<F, Fut, T>(
    settings: ExecutorSettings,
    make: F,
) -> Result<ExecutorJoinHandle<T>, GlommioError<()>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let placement = settings.core.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&settings.name)
        .preempt_timer(PREEMPT_TIMER)
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .spawn(make)
}
