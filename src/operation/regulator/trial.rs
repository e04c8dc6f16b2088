//! Whether twice as much under way brings more while the shard is busy.

/// The number of windows that the rate before a doubling is the largest of.
const RECENT: usize = 4;
/// The number of windows in which the rate must rise by a quarter.
const WINDOWS: u32 = 6;
/// The number of windows without a doubling after one that brought nothing, first and at most.
const PAUSE: u32 = 16;
const PAUSE_MAX: u32 = 64 * PAUSE;

/// The number of windows for which a doubling lasts, and one that brought more.
const LASTS: u32 = 8;
const LASTS_IF_USEFUL: u32 = 64;

/// The state of the last doubling.
#[derive(Debug)]
pub(super) struct Trial {
    /// The rates of the last windows, in bytes per second, the newest last.
    recent: [u64; RECENT],
    /// The rate that must be reached, and the windows left for it.
    running: Option<(u64, u32)>,
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

    /// Begins to watch a doubling. Returns false if there must be none now.
    pub(super) fn begin(&mut self) -> bool {
        if self.running.is_some() || self.pause > 0 {
            return false;
        }
        let before = self.recent.iter().copied().max().unwrap_or(0);
        self.running = Some((before + before / 4, WINDOWS));
        true
    }

    /// Returns whether the doubling brought nothing. `rate` is that of the window that ends.
    pub(super) fn has_failed(&mut self, rate: u64) -> bool {
        let Some((wanted, left)) = &mut self.running else { return false };
        if rate >= *wanted {
            self.running = None;
            self.next_pause = PAUSE;
            self.lasts = LASTS_IF_USEFUL;
            return false;
        }
        *left -= 1;
        if *left > 0 {
            return false;
        }
        self.running = None;
        self.pause = self.next_pause;
        self.next_pause = (2 * self.next_pause).min(PAUSE_MAX);
        true
    }

    /// Returns whether a doubling ends, because nothing has shown its use lately.
    pub(super) fn is_over(&mut self) -> bool {
        if self.running.is_some() {
            return false;
        }
        self.lasts = self.lasts.saturating_sub(1);
        let is_over = self.lasts == 0;
        if is_over {
            self.lasts = LASTS;
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

    /// Ends windows with this rate until the running trial has a result. Returns whether it failed.
    fn result(trial: &mut Trial, rate: u64) -> bool {
        for _ in 0..WINDOWS {
            let failed = trial.has_failed(rate);
            trial.end_window(rate);
            if failed || trial.running.is_none() {
                return failed;
            }
        }
        panic!("a trial ends after {WINDOWS} windows");
    }

    /// Ends windows until the next trial begins. Returns how many.
    fn pause(trial: &mut Trial, rate: u64) -> u32 {
        let mut windows = 0;
        while !trial.begin() {
            trial.end_window(rate);
            windows += 1;
        }
        windows
    }

    #[test]
    fn a_doubling_that_brings_nothing_is_tried_ever_more_rarely() {
        let mut trial = Trial::new();
        trial.end_window(100);
        assert!(trial.begin());
        let mut expected = PAUSE;
        for _ in 0..9 {
            assert!(result(&mut trial, 124), "a quarter more is wanted");
            (0..RECENT).for_each(|_| trial.end_window(100));
            // The window in which it failed counts.
            assert_eq!(1 + RECENT as u32 + pause(&mut trial, 100), expected);
            expected = (2 * expected).min(PAUSE_MAX);
        }
    }

    #[test]
    fn a_doubling_that_brings_more_lasts_and_the_next_one_begins_at_once() {
        let mut trial = Trial::new();
        trial.end_window(100);
        assert!(trial.begin() && !trial.begin(), "one trial at a time");
        assert!(!result(&mut trial, 125));
        assert_eq!((0..).find(|_| trial.is_over()), Some(LASTS_IF_USEFUL - 1));
        assert_eq!((0..).find(|_| trial.is_over()), Some(LASTS - 1));
        assert!(trial.begin());
    }
}
