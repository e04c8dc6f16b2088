//! Verifies, counts and measures the messages of a worker, for any server, and decides when the worker ends.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::interrupt::STOP_GRACE;
use super::leases::Span;
use super::meter::Meter;
use super::part::Part;
use super::plan::Plan;
use super::progress::{Progress, sum};
use super::stamp::{Stamp, Verdict};
use super::window::{GRACE, Window};

/// How long before its end a claim counts as over: the server's clock may be ahead, and it gives whole seconds.
const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// The results of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Worked {
    pub verdict: Verdict,
    /// Messages that another worker had at the same time.
    pub twice: u64,
    /// Messages that were claimed after their acknowledgement was confirmed.
    pub again: u64,
    /// Messages whose claim was over before their acknowledgement was confirmed.
    pub expired: u64,
    /// Messages of the run whose acknowledgement is confirmed, and those within the window.
    pub settled: u64,
    pub settled_measured: u64,
    /// The messages and payload bytes claimed within the window.
    pub claimed_measured: u64,
    pub bytes_measured: u64,
    /// When the first message was claimed and when the last acknowledgement was confirmed.
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    pub failure: Option<String>,
}

/// Messages that were claimed together.
#[derive(Debug)]
pub(super) struct Group {
    pub at: Instant,
    pub spans: Vec<Span>,
    /// How many messages of the run it has.
    count: u64,
    is_over: bool,
}

/// The state of one worker.
#[derive(Debug)]
pub(super) struct Claiming {
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    number: u32,
    /// The producers and the workers of its queue.
    users: (Vec<u32>, Vec<u32>),
    window: Window,
    /// The window in nanoseconds of the run's clock.
    measured_ns: Range<u64>,
    /// The arrival time of the current messages, also on the run's clock.
    now: Instant,
    now_ns: u64,
    spans: Vec<Span>,
    taken: (u64, u64),
    /// The groups that are not confirmed, oldest first, and the requests that acknowledge them.
    open: VecDeque<(u64, Group)>,
    worked: Worked,
    /// The last number of confirmed messages, and when this worker gives up if it does not rise.
    give_up: Option<(u64, Instant)>,
}

impl Claiming {
    pub(super) fn new(part: Part) -> Self {
        let Part { plan, number, progress } = part;
        Self {
            users: (plan.users_with(number, plan.producers()), plan.users_with(number, plan.consumers())),
            number,
            window: Window::unset(Instant::now()),
            measured_ns: 0..0,
            now: plan.epoch,
            now_ns: 0,
            spans: Vec::new(),
            taken: (0, 0),
            open: VecDeque::new(),
            worked: Worked::default(),
            give_up: None,
            plan,
            progress,
        }
    }

    /// Sets the window of the run. Until then, nothing counts as measured.
    pub(super) fn measure(&mut self, window: Window) {
        self.measured_ns = self.plan.clock_ns(window.from)..self.plan.clock_ns(window.until);
        self.window = window;
    }

    /// Begins a group of messages that arrived together, possibly none.
    pub(super) fn begin(&mut self, now: Instant, meter: &mut Meter) {
        (self.now, self.now_ns) = (now, self.plan.clock_ns(now));
        self.taken = (0, 0);
        meter.received(now, 0);
    }

    /// Handles one message of the group. Returns whether to acknowledge it: a message without a stamp belongs to
    /// somebody else.
    #[inline]
    pub(super) fn handle(&mut self, number: u64, payload: &[u8], meter: &mut Meter) -> bool {
        let Some(stamp) = Stamp::read(payload) else {
            self.worked.verdict.foreign += 1;
            return false;
        };
        if stamp.run != self.plan.run {
            self.worked.verdict.others += 1;
            return true;
        }
        if !self.progress.leases.knows(stamp.stream, stamp.sequence) {
            self.worked.verdict.foreign += 1;
            return false;
        }
        self.taken.0 += 1;
        self.taken.1 += payload.len() as u64;
        if self.measured_ns.contains(&stamp.intended_ns) {
            meter.end_to_end(self.now_ns.saturating_sub(stamp.intended_ns));
        }
        match self.spans.last_mut() {
            Some(last)
                if last.stream == stamp.stream
                    && last.first + last.count == stamp.sequence
                    && last.number + last.count == number =>
            {
                last.count += 1;
            }
            _ => self.spans.push(Span { stream: stamp.stream, first: stamp.sequence, count: 1, number }),
        }
        true
    }

    /// Ends the group. Returns it if it has messages of the run.
    pub(super) fn end(&mut self, meter: &mut Meter) -> Option<Group> {
        let (count, bytes) = self.taken;
        if count == 0 {
            return None;
        }
        let Self { worked, now, .. } = self;
        let spans = std::mem::take(&mut self.spans);
        for span in &spans {
            let overlap = self.progress.leases.lease(span);
            worked.twice += overlap.twice;
            worked.again += overlap.again;
        }
        meter.received(*now, count);
        if self.window.holds(*now) {
            worked.claimed_measured += count;
            worked.bytes_measured += bytes;
        }
        worked.verdict.received += count;
        worked.verdict.received_bytes += bytes;
        worked.first.get_or_insert(*now);
        self.progress.received[self.number as usize].store(worked.verdict.received, Ordering::Release);
        Some(Group { at: *now, spans, count, is_over: false })
    }

    /// Records that a request acknowledges a group.
    pub(super) fn acknowledge(&mut self, request: u64, group: Group) {
        self.open.push_back((request, group));
    }

    /// Handles the confirmation of the first `requests` requests.
    pub(super) fn confirm(&mut self, now: Instant, requests: u64, meter: &mut Meter) {
        while let Some((_, group)) = self.open.pop_front_if(|(request, _)| *request <= requests) {
            self.settle(now, &group, meter);
        }
    }

    /// Records that the acknowledgements of a group are confirmed.
    pub(super) fn settle(&mut self, now: Instant, group: &Group, meter: &mut Meter) {
        let fresh: u64 = group.spans.iter().map(|span| self.progress.leases.confirm(span)).sum();
        self.worked.settled += fresh;
        self.worked.settled_measured += if self.window.holds(now) { fresh } else { 0 };
        self.worked.last = Some(now);
        if self.window.holds(group.at) {
            meter.settled(now, group.at, group.count);
        }
        self.progress.settled[self.number as usize].store(self.worked.settled, Ordering::Release);
    }

    /// Handles messages that were given to somebody else before they were acknowledged.
    pub(super) fn lose(&mut self, numbers: &Range<u64>) {
        for (_, group) in &mut self.open {
            for span in std::mem::take(&mut group.spans) {
                let end = span.number + span.count;
                let lost = numbers.start.clamp(span.number, end)..numbers.end.clamp(span.number, end);
                let count = lost.end - lost.start;
                let part = |from: u64, until: u64| Span {
                    first: span.first + (from - span.number),
                    count: until - from,
                    number: from,
                    ..span
                };
                let kept = [part(span.number, lost.start), part(lost.start + count, end)];
                group.spans.extend(kept.into_iter().filter(|kept| kept.count > 0));
                group.count -= count;
                if !group.is_over {
                    self.worked.expired += count;
                }
            }
        }
    }

    /// Records which claims are over at `now`, so that their messages may come again.
    pub(super) fn expire(&mut self, now: Instant) {
        let ttl = Duration::from_secs(self.plan.lease.into());
        let sure = ttl.saturating_sub(LEASE_MARGIN.min(ttl / 2));
        for (_, group) in self.open.iter_mut().take_while(|(_, group)| now >= group.at + sure) {
            if !std::mem::replace(&mut group.is_over, true) {
                group.spans.iter().for_each(|span| self.progress.leases.release(span));
                self.worked.expired += group.count;
            }
        }
    }

    /// Returns whether the worker ends: everything that was stored in its queue is acknowledged for good, or that makes
    /// no progress.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let interrupted = self.progress.interrupted_at();
        if self.progress.has_failed() || interrupted.is_some_and(|at| now >= at + STOP_GRACE) {
            return true;
        }
        if self.progress.producers.load(Ordering::Acquire) > 0 {
            return false;
        }
        let settled = sum(&self.progress.settled, &self.users.1);
        let give_up = match self.give_up {
            Some((before, at)) if before == settled => at,
            _ => now + GRACE,
        };
        self.give_up = Some((settled, give_up));
        settled >= sum(&self.progress.acknowledged, &self.users.0) || now >= give_up
    }

    pub(super) fn worked(self, failure: Option<String>) -> Worked {
        Worked { failure, ..self.worked }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::meter::Piece;
    use super::super::plan::{Mode, plan};
    use super::super::stamp::STAMP_BYTES;
    use super::*;

    /// Workers of one run.
    struct Run {
        part: Part,
        meter: Meter,
        pieces: Receiver<Piece>,
        window: Window,
    }

    impl Run {
        fn new() -> Self {
            let plan = Plan { consumers: 2, lease: 60, ..plan(Mode::Claim, None, Duration::from_secs(600)) };
            let window = Window::of(plan.epoch, &plan);
            let progress = Arc::new(Progress::new(&plan));
            let (to, pieces) = channel();
            let mut meter = Meter::new(to);
            meter.begin(window);
            Self { part: Part { plan: Arc::new(plan), number: 0, progress }, meter, pieces, window }
        }

        fn worker(&self, number: u32) -> Claiming {
            let mut worker = Claiming::new(Part { number, ..self.part.clone() });
            worker.measure(self.window);
            worker
        }

        fn after(&self, seconds: u64) -> Instant {
            self.part.plan.epoch + Duration::from_secs(seconds)
        }

        /// Gives a worker messages of the run with these sequence numbers, numbered from `number`.
        fn claim(&mut self, worker: &mut Claiming, number: u64, sequences: Range<u64>) -> Group {
            let now = self.after(1);
            worker.begin(now, &mut self.meter);
            for (number, sequence) in (number..).zip(sequences) {
                let mut payload = [0; STAMP_BYTES];
                Stamp { run: self.part.plan.run, stream: 0, sequence, intended_ns: 0 }.write(&mut payload);
                assert!(worker.handle(number, &payload, &mut self.meter));
            }
            worker.end(&mut self.meter).unwrap()
        }
    }

    #[test]
    fn messages_count_once_their_acknowledgement_is_confirmed() {
        let mut run = Run::new();
        let mut worker = run.worker(0);
        let group = run.claim(&mut worker, 1, 0..100);
        assert_eq!(group.spans, [Span { stream: 0, first: 0, count: 100, number: 1 }]);
        worker.acknowledge(2, group);
        worker.confirm(run.after(2), 1, &mut run.meter);
        assert_eq!(worker.worked.settled, 0);
        run.part.progress.acknowledged[0].store(100, Ordering::Release);
        run.part.progress.producers.store(0, Ordering::Release);
        assert!(!worker.is_over(run.after(2)));
        worker.confirm(run.after(3), 2, &mut run.meter);
        assert!(worker.is_over(run.after(3)));
        run.meter.flush();
        let settle: Vec<u64> = run.pieces.try_iter().map(|piece| piece.settle.max()).collect();
        assert!(settle.iter().any(|nanos| (1_990_000_000..2_010_000_000).contains(nanos)), "{settle:?}");
        let Worked { settled, settled_measured, twice, again, .. } = worker.worked(None);
        assert_eq!((settled, settled_measured, twice, again), (100, 100, 0, 0));
    }

    #[test]
    fn a_worker_gives_up_once_nothing_is_confirmed_any_more() {
        let run = Run::new();
        let mut worker = run.worker(0);
        run.part.progress.acknowledged[0].store(100, Ordering::Release);
        assert!(!worker.is_over(run.after(1)), "the producers have not ended");
        run.part.progress.producers.store(0, Ordering::Release);
        assert!(!worker.is_over(run.after(1)));
        run.part.progress.settled[1].store(50, Ordering::Release);
        let later = run.after(1) + GRACE;
        assert!(!worker.is_over(later), "another worker makes progress");
        assert!(!worker.is_over(later));
        assert!(worker.is_over(later + GRACE));
    }

    #[test]
    fn two_workers_with_one_message_and_repeats_are_found() {
        let mut run = Run::new();
        let (mut one, mut other) = (run.worker(0), run.worker(1));
        let group = run.claim(&mut one, 1, 0..10);
        run.claim(&mut other, 1, 8..12);
        one.acknowledge(1, group);
        one.confirm(run.after(2), 1, &mut run.meter);
        run.claim(&mut other, 5, 0..1);
        assert_eq!((one.worked.twice, one.worked.again), (0, 0));
        assert_eq!((other.worked.twice, other.worked.again), (2, 1));
    }

    #[test]
    fn a_claim_that_is_over_may_come_to_another_worker() {
        let mut run = Run::new();
        let (mut one, mut other) = (run.worker(0), run.worker(1));
        let group = run.claim(&mut one, 1, 0..10);
        one.acknowledge(1, group);
        one.expire(run.after(50));
        assert_eq!(one.worked.expired, 0);
        one.expire(run.after(60));
        one.expire(run.after(61));
        assert_eq!(one.worked.expired, 10, "each claim ends once");
        let again = run.claim(&mut other, 1, 2..4);
        other.acknowledge(1, again);
        one.lose(&(3..5));
        one.confirm(run.after(70), 1, &mut run.meter);
        assert_eq!(one.worked.settled, 8, "the rest was acknowledged late, and still counts");
        other.confirm(run.after(70), 1, &mut run.meter);
        assert_eq!((other.worked.settled, other.worked.twice, other.worked.again), (2, 0, 0));
    }

    #[test]
    fn messages_of_others_are_not_verified_and_foreign_ones_are_left_alone() {
        let mut run = Run::new();
        let mut worker = run.worker(0);
        worker.begin(run.after(1), &mut run.meter);
        let mut payload = [0; STAMP_BYTES];
        Stamp { run: run.part.plan.run + 1, stream: 9, sequence: 3, intended_ns: 0 }.write(&mut payload);
        assert!(worker.handle(1, &payload, &mut run.meter), "an earlier run has left it");
        assert!(!worker.handle(2, b"a job", &mut run.meter));
        Stamp { run: run.part.plan.run, stream: 9, sequence: 3, intended_ns: 0 }.write(&mut payload);
        assert!(!worker.handle(3, &payload, &mut run.meter), "the run has no such stream");
        assert!(worker.end(&mut run.meter).is_none());
        assert_eq!((worker.worked.verdict.others, worker.worked.verdict.foreign), (1, 2));
    }
}
