//! Spares a provider that fails, and those who would wait for it.

use crate::base::millis::Millis;

/// After how many failures in a row the provider is not asked.
const FAILURES: u32 = 5;

/// For how long it is not asked then. After one more failure, it is not asked for as long again.
const PAUSE: Millis = Millis::new(5_000);

/// Counts the failures of a provider.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    until: Millis,
}

impl Breaker {
    /// Returns whether the provider must not be asked now.
    pub(super) fn refuses(&self, now: Millis) -> bool {
        now < self.until
    }

    /// Counts an answer, or that there was none.
    pub(super) fn count(&mut self, now: Millis, is_answer: bool) {
        self.failures = if is_answer { 0 } else { self.failures.saturating_add(1) };
        self.until = if self.failures >= FAILURES { now + PAUSE } else { Millis::ZERO };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_a_row_make_a_pause_of_five_seconds() {
        let (mut breaker, at) = (Breaker::default(), Millis::new);
        for _ in 0..4 {
            breaker.count(at(0), false);
        }
        breaker.count(at(0), true);
        for _ in 0..4 {
            breaker.count(at(0), false);
        }
        assert!(!breaker.refuses(at(0)));
        breaker.count(at(0), false);
        assert!(breaker.refuses(at(4_999)) && !breaker.refuses(at(5_000)));
        breaker.count(at(5_000), false);
        assert!(breaker.refuses(at(9_999)), "one more failure is enough");
        breaker.count(at(10_000), true);
        assert!(!breaker.refuses(at(10_000)));
    }
}
