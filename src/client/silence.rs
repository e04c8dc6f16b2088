//! How long a server may be silent: when it is asked whether it is there, and when it is given up.
//!
//! A server pings every `ping_interval`, which a client does not know and which may be longer than any fixed limit. So the client pings a
//! server that has been silent, and gives up only where nothing comes back. A server that pings but answers no pings for a while,
//! because it reads nothing while it is out of memory, sets the limit by the pace of its own pings.

use std::time::{Duration, Instant};

/// How long a client bears a server's silence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long a server may take to shake hands.
    pub handshake: Duration,
    /// The silence after which the server is pinged.
    pub ask_after: Duration,
    /// The silence after which it is given up, unless its own pings come more slowly. No less than `ask_after`.
    pub give_up_after: Duration,
}

impl Patience {
    /// That of every client.
    pub(super) const USUAL: Self = Self {
        handshake: Duration::from_secs(10),
        ask_after: Duration::from_secs(30),
        give_up_after: Duration::from_secs(90),
    };
}

/// Pings of the server that may fail to come.
const PINGS_MISSED: u32 = 3;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Look again after so long.
    Wait(Duration),
    /// Ping the server, and look again after so long.
    Ask(Duration),
    /// The server is gone: it was silent for so long.
    Over(Duration),
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Silence {
    patience: Patience,
    heard: Instant,
    /// Since when an answer is awaited.
    asked: Option<Instant>,
    /// The longest silence that a ping of the server has ended.
    pub(super) pace: Duration,
}

impl Silence {
    pub(super) fn new(now: Instant, patience: Patience) -> Self {
        Self { patience, heard: now, asked: None, pace: Duration::ZERO }
    }

    /// Something came; `pinged`: a ping was in it.
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
            // Not past the time at which a server that has shaken hands at once is pinged.
            return if left.is_zero() { Look::Over(quiet) } else { Look::Wait(left.min(ask_after)) };
        }
        let for_answer = give_up_after.max(self.pace * PINGS_MISSED).saturating_sub(ask_after);
        match self.asked {
            None if quiet < ask_after => Look::Wait(ask_after - quiet),
            // Also after a long stop of this process, in which nothing could be heard.
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
    fn a_server_that_answers_is_never_given_up_however_rarely_it_pings() {
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
    fn a_client_that_was_stopped_asks_before_it_gives_up() {
        let began = Instant::now();
        let mut silence = silence(began);
        assert_eq!(silence.look(began + secs(3_600), true), Look::Ask(secs(60)));
    }
}
