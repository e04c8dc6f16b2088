//! Whether twice as much under way brings more while the shard is busy.

/// The number of windows that the rate before a doubling is the largest of.
const RECENT: usize = 4;
/// The number of doublings that are on trial together.
const DOUBLINGS: u32 = 2;
/// The number of windows in which the rate must rise by a quarter.
const WINDOWS: u32 = 6;
/// After a trial that failed, no other one begins for this number of windows.
const PAUSE: u32 = 16;
/// The longest pause. Each pause after a failure is twice the one before.
const PAUSE_MAX: u32 = 64 * PAUSE;

/// The number of windows for which a doubling lasts.
const LASTS: u32 = 8;
/// The same after a trial that brought more.
const LASTS_IF_USEFUL: u32 = 64;

/// Doublings on trial.
#[derive(Debug)]
struct Running {
    /// The rate that must be reached, and the windows left for it.
    wanted: u64,
    left: u32,
    /// The doublings before.
    doublings: u32,
}

/// The state of the trials.
#[derive(Debug)]
pub(super) struct Trial {
    /// The rates of the last windows, in bytes per second, the newest last.
    recent: [u64; RECENT],
    running: Option<Running>,
    /// The windows until the next doubling may begin, and how many the next pause has.
    pause: u32,
    next_pause: u32,
    /// The windows until a doubling ends, so that it must show its use again.
    lasts: u32,
}

impl Trial {
    pub(super) fn new() -> Self {
        Self { recent: [0; RECENT], running: None, pause: 0, next_pause: PAUSE, lasts: LASTS }
    }

    /// Returns whether there may be one more doubling after a window with this rate. Begins a trial if none runs.
    pub(super) fn goes_on(&mut self, rate: u64, doublings: u32) -> bool {
        if self.running.is_none() {
            if self.pause > 0 || self.recent.contains(&0) {
                return false;
            }
            self.begin(rate, doublings);
        }
        self.running.as_ref().is_some_and(|running| doublings < running.doublings + DOUBLINGS)
    }

    fn begin(&mut self, rate: u64, doublings: u32) {
        let before = self.recent.iter().copied().fold(rate, u64::max);
        self.running = Some(Running { wanted: before + before / 4, left: WINDOWS, doublings });
    }

    /// Returns the doublings before the trial if it has failed. `rate` is that of the window that ends.
    pub(super) fn failed(&mut self, rate: u64, doublings: u32) -> Option<u32> {
        let running = self.running.as_mut()?;
        if rate >= running.wanted {
            self.begin(rate, doublings);
            self.next_pause = PAUSE;
            self.lasts = LASTS_IF_USEFUL;
            return None;
        }
        running.left -= 1;
        if running.left > 0 {
            return None;
        }
        let before = running.doublings;
        self.running = None;
        self.pause = self.next_pause;
        self.next_pause = (2 * self.next_pause).min(PAUSE_MAX);
        Some(before)
    }

    /// Returns whether one of these doublings ends, because nothing has shown its use lately.
    pub(super) fn is_over(&mut self, doublings: u32) -> bool {
        if doublings == 0 || self.running.is_some() {
            return false;
        }
        self.lasts = self.lasts.saturating_sub(1);
        let is_over = self.lasts == 0;
        if is_over {
            // The next window may begin to win it back.
            (self.lasts, self.pause) = (LASTS, 0);
        }
        is_over
    }

    /// Ends a trial without a result.
    pub(super) fn end(&mut self) {
        self.running = None;
    }

    /// Ends a window.
    pub(super) fn end_window(&mut self, rate: u64) {
        self.pause = self.pause.saturating_sub(1);
        self.recent.rotate_left(1);
        self.recent[RECENT - 1] = rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends windows with this rate until a trial begins. Returns how many.
    fn pause(trial: &mut Trial, rate: u64) -> u32 {
        let mut windows = 0;
        while !trial.goes_on(rate, 2) {
            trial.end_window(rate);
            windows += 1;
        }
        windows
    }

    #[test]
    fn doublings_that_bring_nothing_are_tried_ever_more_rarely() {
        let mut trial = Trial::new();
        assert_eq!(pause(&mut trial, 100), RECENT as u32);
        let mut expected = PAUSE;
        for _ in 0..9 {
            for left in (0..WINDOWS).rev() {
                assert!(trial.goes_on(124, 3) && !trial.goes_on(124, 4), "two doublings at most");
                // A quarter more is wanted.
                assert_eq!(trial.failed(124, 3), (left == 0).then_some(2));
            }
            assert!((0..=LASTS).all(|_| !trial.is_over(0)), "without doublings, the pause stays");
            assert_eq!(pause(&mut trial, 100), expected);
            expected = (2 * expected).min(PAUSE_MAX);
        }
    }

    #[test]
    fn doublings_that_bring_more_last_and_the_next_trial_keeps_them() {
        let mut trial = Trial::new();
        pause(&mut trial, 100);
        assert_eq!(trial.failed(125, 3), None);
        assert!((1..WINDOWS).all(|_| trial.failed(125, 4).is_none()));
        assert_eq!(trial.failed(125, 4), Some(3), "another quarter is wanted");
        assert!(!trial.goes_on(125, 3));
        assert_eq!((0..).find(|_| trial.is_over(2)), Some(LASTS_IF_USEFUL - 1));
        assert!(trial.goes_on(125, 2), "what ended is tried again at once");
        trial.end();
        assert_eq!((0..).find(|_| trial.is_over(2)), Some(LASTS - 1));
    }
}
