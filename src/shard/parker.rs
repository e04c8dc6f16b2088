//! How a driver waits: ready sockets, parking, and passes of the reactor.
//!
//! Runs on the shard's own thread, inside its one driver task. A socket's waker only notes the slot here and
//! ends a park. It never runs other code. Never accesses the data of the sockets.
//!
//! glommio polls sockets and timers only between runs of its task queue. A busy driver therefore ends its
//! turn with [`Parker::reactor_pass`]. An idle driver awaits [`Parker::park`], which is also a pass, and
//! sleeps if the pass found nothing.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use glommio::timer::Timer;

use super::inbox::Inbox;

/// The delay of the timer that ends a pass. It is so short that it has expired when the executor polls it, so
/// that it wakes the driver in the next pass of the reactor without a sleep. With zero the driver would never
/// leave its task.
const PASS_DELAY: Duration = Duration::from_nanos(300);

thread_local! {
    static READY: RefCell<Ready> = const { RefCell::new(Ready { slots: Vec::new(), driver: None }) };
}

struct Ready {
    slots: Vec<u32>,
    /// The waker of the parked driver, and the heartbeat that shows the monitor that it was woken.
    driver: Option<(Waker, Arc<Heartbeat>)>,
}

/// The waker of one socket. Notes the slot, only once until it is taken, and ends the driver's park.
#[derive(Debug)]
pub struct ReadyMark {
    slot: u32,
    marked: AtomicBool,
}

impl ReadyMark {
    /// Creates a mark for `slot`, and the waker for its socket. Both stay on this thread.
    pub fn new(slot: u32) -> (Arc<Self>, Waker) {
        let mark = Arc::new(Self { slot, marked: AtomicBool::new(false) });
        (mark.clone(), Waker::from(mark))
    }

    /// Adds the slot to the ready list, unless it is already in it.
    pub fn mark(&self) {
        if !self.marked.swap(true, Ordering::Relaxed) {
            READY.with(|ready| {
                let mut ready = ready.borrow_mut();
                ready.slots.push(self.slot);
                if let Some((driver, heartbeat)) = ready.driver.take() {
                    heartbeat.parked.store(false, Ordering::Relaxed);
                    driver.wake();
                }
            });
        }
    }

    /// Handles the removal of the slot from the list.
    pub fn clear(&self) {
        self.marked.store(false, Ordering::Relaxed);
    }
}

impl Wake for ReadyMark {
    fn wake(self: Arc<Self>) {
        self.mark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mark();
    }
}

/// How late the timer of a parked driver may be before the monitor considers it lost.
const TIMER_GRACE: Duration = Duration::from_millis(20);

/// The state of a shard that the monitor sees.
#[derive(Debug)]
pub struct Heartbeat {
    turns: CachePadded<AtomicU64>,
    parked: CachePadded<AtomicBool>,
    /// When the park ends by itself, in milliseconds since `began`; `u64::MAX` means never.
    until_ms: AtomicU64,
    /// Whether the monitor considers the shard stalled: it has work, but made no turn for a while.
    stands_still: AtomicBool,
    began: Instant,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            turns: CachePadded::default(),
            parked: CachePadded::default(),
            until_ms: AtomicU64::new(u64::MAX),
            stands_still: AtomicBool::new(false),
            began: Instant::now(),
        }
    }
}

impl Heartbeat {
    /// Returns the number of turns begun so far.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Returns whether the driver is parked: it has nothing to do, no socket has woken it, and its timer is
    /// not overdue.
    pub fn is_parked(&self) -> bool {
        let until = Duration::from_millis(self.until_ms.load(Ordering::Relaxed));
        self.parked.load(Ordering::Relaxed) && self.began.elapsed() < until.saturating_add(TIMER_GRACE)
    }

    /// Returns whether the monitor considers the shard stalled.
    pub fn stands_still(&self) -> bool {
        self.stands_still.load(Ordering::Relaxed)
    }

    /// Sets whether the monitor considers the shard stalled.
    pub fn set_stands_still(&self, stands_still: bool) {
        self.stands_still.store(stands_still, Ordering::Relaxed);
    }

    fn park_until(&self, deadline: Option<Instant>) {
        let until_ms =
            deadline.map_or(u64::MAX, |at| at.saturating_duration_since(self.began).as_millis() as u64);
        self.until_ms.store(until_ms, Ordering::Relaxed);
    }
}

/// The part of a driver that waits.
#[derive(Debug, Default)]
pub struct Parker {
    heartbeat: Arc<Heartbeat>,
    timer: Option<(Instant, Timer)>,
}

impl Parker {
    /// Creates a parker that shows its progress in `heartbeat`.
    pub fn new(heartbeat: Arc<Heartbeat>) -> Self {
        Self { heartbeat, timer: None }
    }

    /// Records the start of a turn.
    pub fn beat(&self) {
        self.heartbeat.turns.store(self.heartbeat.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Appends the slots that became ready to `slots`. The caller clears the mark of each slot when it serves
    /// it.
    pub fn take_ready(&self, slots: &mut Vec<u32>) {
        READY.with(|ready| slots.append(&mut ready.borrow_mut().slots));
    }

    /// Returns whether a socket is ready that was not taken.
    pub fn has_ready(&self) -> bool {
        READY.with(|ready| !ready.borrow().slots.is_empty())
    }

    /// Waits until a socket is ready, the inbox has a batch, or `deadline` has passed. Returns false if that
    /// was already true, so that the reactor made no pass.
    pub async fn park<T>(&mut self, inbox: &Inbox<T>, deadline: Option<Instant>) -> bool {
        let Self { heartbeat, timer } = self;
        if timer.as_ref().map(|(at, _)| *at) != deadline {
            *timer = deadline.map(|at| (at, Timer::new(at.saturating_duration_since(Instant::now()))));
        }
        heartbeat.park_until(deadline);
        let mut polled = false;
        poll_fn(|cx| {
            let woken = READY.with(|ready| {
                let mut ready = ready.borrow_mut();
                let woken = !ready.slots.is_empty();
                ready.driver = (!woken).then(|| (cx.waker().clone(), heartbeat.clone()));
                woken
            });
            let expired = timer.as_mut().is_some_and(|(_, timer)| Pin::new(timer).poll(cx).is_ready());
            if polled || woken || expired || !inbox.arm(cx.waker()) {
                return Poll::Ready(());
            }
            polled = true;
            heartbeat.parked.store(true, Ordering::Relaxed);
            Poll::Pending
        })
        .await;
        heartbeat.parked.store(false, Ordering::Relaxed);
        inbox.disarm();
        READY.with(|ready| ready.borrow_mut().driver = None);
        if timer.as_ref().is_some_and(|(at, _)| *at <= Instant::now()) {
            *timer = None;
        }
        polled
    }

    /// Lets the reactor poll the sockets and timers once, without sleeping.
    pub async fn reactor_pass(&self) {
        let mut delay = PASS_DELAY;
        let mut timer = Timer::new(delay);
        let mut left = false;
        poll_fn(|cx| {
            while Pin::new(&mut timer).poll(cx).is_ready() {
                if left {
                    return Poll::Ready(());
                }
                // The timer expired before it was first polled. Then the executor did not run, and would not
                // have polled the sockets.
                delay *= 2;
                timer = Timer::new(delay);
            }
            left = true;
            Poll::Pending
        })
        .await;
    }
}
