//! Changes on their way into the attributes topic. A change is complete once Kafka has reported its record as stored, and
//! it was read back: then this server sees it, and whatever came after it.

use std::time::{Duration, Instant};

use crate::base::error::StoreFault;
use crate::store::kafka::native::Trouble;

/// What is said of a change that Kafka may have stored.
const UNKNOWN: StoreFault =
    StoreFault::Unavailable("Kafka has not confirmed the change of attributes; it may still be made");

#[derive(Debug)]
struct Write<R> {
    number: usize,
    reply: R,
    /// The offset of its record, once Kafka has reported it as stored.
    stored: Option<i64>,
    until: Instant,
}

/// The changes under way. `R` is what receives the result of one.
#[derive(Debug)]
pub struct Writes<R> {
    open: Vec<Write<R>>,
    last: usize,
}

impl<R> Writes<R> {
    pub fn new() -> Self {
        Self { open: Vec::new(), last: 0 }
    }

    /// Notes a change. Returns the number of its record.
    pub fn begin(&mut self, now: Instant, patience: Duration, reply: R) -> usize {
        self.last += 1;
        self.open.push(Write { number: self.last, reply, stored: None, until: now + patience });
        self.last
    }

    /// Handles that a record is stored, or not. Returns the change if it has failed.
    pub fn handle_report(&mut self, number: usize, result: Result<i64, Trouble>) -> Option<(R, StoreFault)> {
        let index = self.open.iter().position(|write| write.number == number)?;
        match result {
            Ok(offset) if offset >= 0 => {
                self.open[index].stored = Some(offset);
                None
            }
            // librdkafka only concludes that it is stored.
            Ok(_) => Some((self.open.swap_remove(index).reply, UNKNOWN)),
            Err(trouble) => {
                trouble.report("write the attributes of a queue");
                Some((self.open.swap_remove(index).reply, UNKNOWN))
            }
        }
    }

    /// Removes the changes whose records were read: everything below this offset.
    pub fn take_read(&mut self, below: i64) -> Vec<R> {
        let is_read = |write: &mut Write<R>| write.stored.is_some_and(|offset| offset < below);
        self.open.extract_if(.., is_read).map(|write| write.reply).collect()
    }

    /// Removes the changes that have waited too long.
    pub fn take_late(&mut self, now: Instant) -> Vec<(R, StoreFault)> {
        self.open.extract_if(.., |write| write.until <= now).map(|write| (write.reply, UNKNOWN)).collect()
    }

    /// Removes all changes, because their reports are lost.
    pub fn take_all(&mut self) -> Vec<(R, StoreFault)> {
        self.open.drain(..).map(|write| (write.reply, UNKNOWN)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_change_is_complete_once_it_is_stored_and_read() {
        let now = Instant::now();
        let mut writes = Writes::new();
        let (one, two) = (writes.begin(now, PATIENCE, "one"), writes.begin(now, PATIENCE, "two"));
        // Not before the report, whatever was read.
        assert_eq!(writes.take_read(i64::MAX), [""; 0]);
        assert!(writes.handle_report(one, Ok(7)).is_none() && writes.handle_report(two, Ok(8)).is_none());
        assert_eq!(writes.take_read(7), [""; 0]);
        assert_eq!(writes.take_read(8), ["one"]);
        assert_eq!(writes.take_read(9), ["two"]);
        assert!(writes.open.is_empty());
    }

    #[test]
    fn a_change_without_a_certain_report_fails_once() {
        let now = Instant::now();
        let mut writes = Writes::new();
        for result in [Ok(-1), Err(Trouble::nothing())] {
            let number = writes.begin(now, PATIENCE, "x");
            assert_eq!(writes.handle_report(number, result.clone()), Some(("x", UNKNOWN)));
            assert_eq!(writes.handle_report(number, result), None);
        }
        let _ = (writes.begin(now, PATIENCE, "x"), writes.begin(now + PATIENCE, PATIENCE, "y"));
        assert_eq!(writes.take_late(now + PATIENCE - Duration::from_millis(1)), []);
        assert_eq!(writes.take_late(now + PATIENCE), [("x", UNKNOWN)]);
        assert_eq!(writes.take_all(), [("y", UNKNOWN)]);
    }
}
