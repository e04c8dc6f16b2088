//! How long the peer of a connection may be silent: timeouts, pings, and the wait for it to close.

use super::Settings;
use crate::base::millis::Millis;

/// How long a client waits for the verdict on its credential.
const VERDICT_MAX: Millis = Millis::new(3_000);

/// How long a connection that the server closes waits for the peer to close, so that the peer can read the
/// reason.
const CLOSE_LINGER: Millis = Millis::new(2_000);

/// How much of a refused connection is read during that time, in bytes. Closing a socket with unread bytes
/// resets the connection, and the peer may lose the answer.
pub(super) const REFUSED_READ_BYTES: u64 = 64 << 10;

/// Returns how much of a connection is read after the server's Close frame, in bytes.
pub(super) fn closed_read_bytes(settings: &Settings) -> u64 {
    settings.operation.discard_limit_bytes.max(REFUSED_READ_BYTES)
}

/// The action that the silence of an open connection's peer requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// None.
    Wait,
    /// Send a ping.
    Ping,
    /// Close the connection.
    Over,
}

/// The silence of one peer.
#[derive(Debug)]
pub(super) struct Liveness {
    /// When the phase of the connection started, or the peer was last heard.
    heard: Millis,
    /// A ping was sent since the peer was last heard.
    is_pinged: bool,
    /// While closing, the number of bytes that may still be read.
    linger_bytes: u64,
}

impl Liveness {
    pub(super) fn new(now: Millis) -> Self {
        Self { heard: now, is_pinged: false, linger_bytes: 0 }
    }

    /// Handles a byte from the peer, or the start of a phase of the connection.
    pub(super) fn hear(&mut self, now: Millis) {
        self.heard = now;
        self.is_pinged = false;
    }

    /// Starts the time of silence anew, because the peer cannot be heard. A ping stays unanswered.
    pub(super) fn excuse(&mut self, now: Millis) {
        self.heard = now;
    }

    /// Returns whether the peer, or the verdict on it, is late for the handshake.
    pub(super) fn is_handshake_late(&self, now: Millis, settings: &Settings) -> bool {
        now >= self.handshake_due(settings)
    }

    /// Returns when the handshake is late.
    pub(super) fn handshake_due(&self, settings: &Settings) -> Millis {
        self.heard + Millis::from(settings.handshake_timeout)
    }

    /// Returns when the verdict on a client's credential is late.
    pub(super) fn verdict_due(&self) -> Millis {
        self.heard + VERDICT_MAX
    }

    /// Returns what to do about the silence of an open connection's peer. The caller must do it.
    pub(super) fn look(&mut self, now: Millis, settings: &Settings) -> Look {
        let silence = now.since(self.heard);
        if silence >= Millis::from(settings.idle_timeout) {
            Look::Over
        } else if silence >= Millis::from(settings.ping_interval) && !self.is_pinged {
            self.is_pinged = true;
            Look::Ping
        } else {
            Look::Wait
        }
    }

    /// Returns when to look at the peer of an open connection.
    pub(super) fn look_due(&self, settings: &Settings) -> Millis {
        let silence = if self.is_pinged { settings.idle_timeout } else { settings.ping_interval };
        self.heard + Millis::from(silence)
    }

    /// Starts to wait for the peer to close. At most `bytes` are read meanwhile.
    pub(super) fn linger(&mut self, now: Millis, bytes: u64) {
        self.heard = now;
        self.linger_bytes = bytes;
    }

    /// Handles bytes that were read while waiting for the peer to close.
    pub(super) fn handle_lingering(&mut self, bytes: usize) {
        self.linger_bytes = self.linger_bytes.saturating_sub(bytes as u64);
    }

    /// Returns how many bytes may be read while waiting for the peer to close.
    pub(super) fn linger_bytes(&self) -> usize {
        usize::try_from(self.linger_bytes).unwrap_or(usize::MAX)
    }

    /// Returns when the wait for the peer to close is over.
    pub(super) fn linger_due(&self) -> Millis {
        self.heard + CLOSE_LINGER
    }

    /// Returns whether the peer's time to close is over, or it has sent more than may be read.
    pub(super) fn is_linger_over(&self, now: Millis) -> bool {
        self.linger_bytes == 0 || now >= self.linger_due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const START: Millis = Millis::new(1_000);

    fn at(seconds: u64) -> Millis {
        START + Millis::new(seconds * 1_000)
    }

    fn settings() -> Settings {
        Settings {
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            ..Settings::default()
        }
    }

    #[test]
    fn a_silent_peer_is_pinged_once_and_then_given_up() {
        let (mut liveness, settings) = (Liveness::new(START), settings());
        assert_eq!(liveness.look_due(&settings), at(10));
        assert_eq!(liveness.look(at(9), &settings), Look::Wait);
        assert_eq!(liveness.look(at(10), &settings), Look::Ping);
        assert_eq!(liveness.look_due(&settings), at(30));
        assert_eq!(liveness.look(at(29), &settings), Look::Wait);
        assert_eq!(liveness.look(at(30), &settings), Look::Over);
    }

    #[test]
    fn a_peer_that_is_heard_is_pinged_again() {
        let (mut liveness, settings) = (Liveness::new(START), settings());
        assert_eq!(liveness.look(at(10), &settings), Look::Ping);
        liveness.hear(at(11));
        assert_eq!(liveness.look_due(&settings), at(21));
        assert_eq!(liveness.look(at(21), &settings), Look::Ping);
    }

    #[test]
    fn an_excused_peer_gets_the_whole_time_but_no_second_ping() {
        let (mut liveness, settings) = (Liveness::new(START), settings());
        assert_eq!(liveness.look(at(10), &settings), Look::Ping);
        liveness.excuse(at(29));
        assert_eq!(liveness.look_due(&settings), at(59));
        assert_eq!(liveness.look(at(58), &settings), Look::Wait);
        assert_eq!(liveness.look(at(59), &settings), Look::Over);
    }

    #[test]
    fn a_handshake_is_late_after_its_timeout() {
        let (mut liveness, settings) = (Liveness::new(START), settings());
        assert!(!liveness.is_handshake_late(at(4), &settings));
        assert!(liveness.is_handshake_late(at(5), &settings));
        liveness.hear(at(4));
        assert!(!liveness.is_handshake_late(at(8), &settings), "the next phase has its own time");
        assert_eq!(liveness.handshake_due(&settings), at(9));
    }

    #[test]
    fn a_closing_connection_lingers_for_a_time_and_for_some_bytes() {
        let mut liveness = Liveness::new(START);
        liveness.linger(at(3), 100);
        assert_eq!((liveness.linger_due(), liveness.linger_bytes()), (at(5), 100));
        liveness.handle_lingering(99);
        assert_eq!(liveness.linger_bytes(), 1);
        assert!(!liveness.is_linger_over(at(4)) && liveness.is_linger_over(at(5)));
        liveness.handle_lingering(2);
        assert!(liveness.is_linger_over(at(4)));
    }
}
