//! Detects a dead server: pings a silent server, and gives it up if nothing comes back.
//!
//! A server pings every `ping_interval`. The client does not know that interval, and it may be longer than
//! any fixed limit, so the client sends pings of its own. A server that is out of memory reads nothing and
//! answers no pings for a while, but still sends its own. Their pace then extends the limit.

use std::time::{Duration, Instant};

/// How long a client tolerates a server's silence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long the handshake may take.
    pub handshake: Duration,
    /// The silence after which the client pings the server.
    pub ask_after: Duration,
    /// The silence after which the client gives up, unless the server's own pings come more slowly. At least
    /// `ask_after`.
    pub give_up_after: Duration,
}

impl Patience {
    /// The values that every client uses.
    pub(super) const USUAL: Self = Self {
        handshake: Duration::from_secs(10),
        ask_after: Duration::from_secs(30),
        give_up_after: Duration::from_secs(90),
    };
}

/// How many of the server's own pings may fail to arrive.
const PINGS_MISSED: u32 = 3;

/// What the client does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Looks again after this time.
    Wait(Duration),
    /// Pings the server, and looks again after this time.
    Ask(Duration),
    /// Gives up: the server was silent for this time.
    Over(Duration),
}

/// The silence of one server.
#[derive(Debug)]
pub(super) struct Silence {
    patience: Patience,
    heard: Instant,
    /// When the client sent a ping that is not answered yet.
    asked: Option<Instant>,
    /// The longest silence that a ping from the server ended.
    pub(super) pace: Duration,
}

impl Silence {
    pub(super) fn new(now: Instant, patience: Patience) -> Self {
        Self { patience, heard: now, asked: None, pace: Duration::ZERO }
    }

    /// Records that data arrived. `pinged` tells whether it contained a ping.
    pub(super) fn heard(&mut self, now: Instant, pinged: bool) {
        if pinged {
            self.pace = self.pace.max(now.saturating_duration_since(self.heard));
        }
        self.heard = now;
        self.asked = None;
    }

    pub(super) fn look(&mut self, now: Instant, is_open: bool) -> Look {
        let Patience { handshake, ask_after, give_up_after } = self.patience;
        let quiet = now.saturating_duration_since(self.heard);
        if !is_open {
            let left = handshake.saturating_sub(quiet);
            // Look again no later than a server that completes the handshake at once would be pinged.
            return if left.is_zero() { Look::Over(quiet) } else { Look::Wait(left.min(ask_after)) };
        }
        let for_answer = give_up_after.max(self.pace * PINGS_MISSED).saturating_sub(ask_after);
        match self.asked {
            None if quiet < ask_after => Look::Wait(ask_after - quiet),
            // Also taken after this process was stopped for a long time, during which it could receive
            // nothing.
            None => {
                self.asked = Some(now);
                Look::Ask(for_answer)
            }
            Some(asked) => {
                let left = for_answer.saturating_sub(now.saturating_duration_since(asked));
                if left.is_zero() { Look::Over(quiet) } else { Look::Wait(left) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence(began: Instant) -> Silence {
        Silence::new(began, Patience::USUAL)
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_server_that_answers_is_never_given_up() {
        let began = Instant::now();
        let mut silence = silence(began);
        for round in 0..100 {
            let at = began + secs(31 * round);
            silence.heard(at, false);
            assert_eq!(silence.look(at + secs(29), true), Look::Wait(secs(1)));
            assert_eq!(silence.look(at + secs(30), true), Look::Ask(secs(60)), "round {round}");
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up() {
        let began = Instant::now();
        let mut silence = silence(began);
        assert_eq!(silence.look(began + secs(10), false), Look::Over(secs(10)), "in the handshake");
        assert_eq!(silence.look(began + secs(30), true), Look::Ask(secs(60)));
        assert_eq!(silence.look(began + secs(89), true), Look::Wait(secs(1)));
        assert_eq!(silence.look(began + secs(90), true), Look::Over(secs(90)));
    }

    #[test]
    fn the_limit_follows_the_pace_of_the_servers_pings() {
        let began = Instant::now();
        let mut silence = silence(began);
        silence.heard(began + secs(80), true);
        let from = began + secs(80);
        assert_eq!(silence.look(from + secs(30), true), Look::Ask(secs(210)));
        assert_eq!(silence.look(from + secs(239), true), Look::Wait(secs(1)));
        assert_eq!(silence.look(from + secs(240), true), Look::Over(secs(240)));
    }

    #[test]
    fn a_client_that_was_stopped_pings_before_it_gives_up() {
        let began = Instant::now();
        let mut silence = silence(began);
        assert_eq!(silence.look(began + secs(3_600), true), Look::Ask(secs(60)));
    }
}
