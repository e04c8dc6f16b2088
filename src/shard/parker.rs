//! How a driver waits: which of its sockets are ready, parking, and passes of the reactor.
//!
//! Runs on the shard's own thread, inside its one driver task. A socket's waker only notes the slot here
//! and ends a park; it never runs anything. Never looks at what the sockets carry.
//!
//! glommio looks at sockets and timers only between runs of its task queue. A driver that goes on working
//! therefore ends its turn in [`Parker::reactor_pass`]; one that has nothing to do awaits [`Parker::park`],
//! which is a pass too, and sleeps if that brought nothing.

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

/// A timer this short has expired by the time the executor looks, so that it wakes the driver in the very
/// next pass of the reactor without a sleep between. Zero would never leave the task.
const PASS_DELAY: Duration = Duration::from_nanos(300);

thread_local! {
    static READY: RefCell<Ready> = const { RefCell::new(Ready { slots: Vec::new(), driver: None }) };
}

struct Ready {
    slots: Vec<u32>,
    /// The parked driver, and what the monitor is to see once it is woken.
    driver: Option<(Waker, Arc<Heartbeat>)>,
}

/// The waker of one socket: notes the slot, once until it is taken, and ends the driver's park.
#[derive(Debug)]
pub struct ReadyMark {
    slot: u32,
    marked: AtomicBool,
}

impl ReadyMark {
    /// A mark for `slot`, and the waker to give to its socket. Both stay on this thread.
    pub fn new(slot: u32) -> (Arc<Self>, Waker) {
        let mark = Arc::new(Self { slot, marked: AtomicBool::new(false) });
        (mark.clone(), Waker::from(mark))
    }

    /// Puts the slot into the ready list unless it is there.
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

    /// The slot was taken from the list.
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

/// How late a parked driver's timer may come before the monitor takes it for lost.
const TIMER_GRACE: Duration = Duration::from_millis(20);

/// What the monitor thread sees of a shard.
#[derive(Debug)]
pub struct Heartbeat {
    turns: CachePadded<AtomicU64>,
    parked: CachePadded<AtomicBool>,
    /// When the park is to end by itself, milliseconds since `began`; `u64::MAX` for never.
    until_ms: AtomicU64,
    /// The monitor has seen no turn for a while, although there is something to do.
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
    /// Turns begun so far.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Whether the driver gave up its thread because it had nothing to do, no socket has woken it since, and its timer
    /// is not overdue.
    pub fn is_parked(&self) -> bool {
        let until = Duration::from_millis(self.until_ms.load(Ordering::Relaxed));
        self.parked.load(Ordering::Relaxed) && self.began.elapsed() < until.saturating_add(TIMER_GRACE)
    }

    /// Whether the monitor takes the shard for stuck.
    pub fn stands_still(&self) -> bool {
        self.stands_still.load(Ordering::Relaxed)
    }

    /// The monitor takes the shard for stuck, or no longer.
    pub fn set_stands_still(&self, stands_still: bool) {
        self.stands_still.store(stands_still, Ordering::Relaxed);
    }

    fn park_until(&self, deadline: Option<Instant>) {
        let until_ms =
            deadline.map_or(u64::MAX, |at| at.saturating_duration_since(self.began).as_millis() as u64);
        self.until_ms.store(until_ms, Ordering::Relaxed);
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Parker {
    heartbeat: Arc<Heartbeat>,
    timer: Option<(Instant, Timer)>,
}

impl Parker {
    /// A driver's parker, whose pulse others can see.
    pub fn new(heartbeat: Arc<Heartbeat>) -> Self {
        Self { heartbeat, timer: None }
    }

    /// A turn begins.
    pub fn beat(&self) {
        self.heartbeat.turns.store(self.heartbeat.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Appends the slots that became ready to `slots`. The caller clears each one's mark as it serves it.
    pub fn take_ready(&self, slots: &mut Vec<u32>) {
        READY.with(|ready| slots.append(&mut ready.borrow_mut().slots));
    }

    /// Whether a socket is ready that was not taken.
    pub fn has_ready(&self) -> bool {
        READY.with(|ready| !ready.borrow().slots.is_empty())
    }

    /// Waits until a socket is ready, something is in the inbox, or `deadline` has come. False where that was so already, and
    /// the reactor had no pass.
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

    /// Lets the reactor look at the sockets and timers, and goes on without sleeping.
    pub async fn reactor_pass(&self) {
        let mut delay = PASS_DELAY;
        let mut timer = Timer::new(delay);
        let mut left = false;
        poll_fn(|cx| {
            while Pin::new(&mut timer).poll(cx).is_ready() {
                if left {
                    return Poll::Ready(());
                }
                // It expired before it was looked at: then the executor was not reached, and the sockets would not be either.
                delay *= 2;
                timer = Timer::new(delay);
            }
            left = true;
            Poll::Pending
        })
        .await;
    }
}
