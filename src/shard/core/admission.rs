//! Admission: decides whether a client may connect.
//!
//! A connection with an acceptable request waits for a verdict, and is not read until then. Without authentication
//! only the limits of its project decide. A client whose verdict takes longer than 3 seconds is refused with 503. The answer to the handshake is written when the verdict arrives. A verdict names its
//! connection by [`ConnectionId`], whose generation keeps a late verdict from the next connection in the same slot.

use super::applicant::{Admitted, Applicant};
use super::{Connection, ConnectionId, Connections, Core};
use crate::base::clock::Now;
use crate::store::Store;
use crate::ws::handshake::Refusal;

/// The result of admission. `Err` holds the answer to a client that may not connect.
pub(super) type Verdict = Result<Admitted, Refusal>;

impl<S: Store<Connections>> Core<S> {
    /// Decides whether a waiting client may connect, or asks for the verdict on it.
    pub(super) fn admit(&mut self, now: Now, id: ConnectionId) {
        let Some(applicant) = self.connections.get(id).and_then(Connection::applicant) else { return };
        if self.authentication.is_some() {
            return self.identify(now, id, applicant);
        }
        let Applicant { project, author, .. } = applicant;
        let project = project.unwrap_or_else(|| self.settings.policy.default_project.clone());
        let verdict = match self.tenants.admit(&project, now.mono) {
            Ok(permit) => {
                Ok(Admitted { permit: Some(permit), project, author, pass: None, stranger_until: None })
            }
            Err(fault) => Err(Refusal::new(429, fault.to_string())),
        };
        self.handle_verdict(now, id, verdict);
    }

    /// Answers the handshake of a connection.
    pub(super) fn handle_verdict(&mut self, now: Now, id: ConnectionId, verdict: Verdict) {
        self.with_dirty(now, id, |connection, env| connection.handle_verdict(verdict, env));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Core, Peer, Settings};
    use super::*;
    use crate::access::{ProjectLimits, Tenants};
    use crate::base::millis::{Millis, UnixMillis};
    use crate::base::names::{ClientId, Project};
    use crate::operation::Author;
    use crate::store::Memory;
    use crate::store::memory::WhenFull;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    const START: Now =
        Now { mono: Millis::new(1), mono_ns: 1_000_000, unix: UnixMillis::new(1_700_000_000_000) };

    fn shard() -> Core<Memory<Connections>> {
        let settings = Settings { handshake_timeout: Duration::from_secs(5), ..Settings::default() };
        let tenants = Tenants::new(ProjectLimits { connections: 1, ..ProjectLimits::default() });
        Core::new(0, 1, Arc::new(settings), Arc::new(tenants), Memory::new(1 << 20, WhenFull::Refuse, 7))
    }

    /// Returns a connection that waits for its verdict.
    fn applicant(core: &mut Core<Memory<Connections>>) -> ConnectionId {
        slow_applicant(core, START)
    }

    /// Returns a connection whose request arrives at `now`, and that waits for its verdict.
    fn slow_applicant(core: &mut Core<Memory<Connections>>, now: Now) -> ConnectionId {
        let id = core.handle_accepted(START, Peer::Unix).unwrap();
        let mut request = REQUEST.to_vec();
        let applies = core.serve(now, id, |connection, env| connection.handle_received(&mut request, env));
        core.after(now, id);
        assert_eq!(applies, Some(true));
        id
    }

    /// Returns the output of the connection, and marks all of it as sent.
    fn answer(core: &mut Core<Memory<Connections>>, id: ConnectionId) -> String {
        let said = String::from_utf8_lossy(core.poll_transmit(START, id)).into_owned();
        core.handle_sent(START, id, said.len(), true);
        said
    }

    fn admitted(core: &Core<Memory<Connections>>) -> Admitted {
        let project = Project::default();
        let permit = Some(core.tenants.admit(&project, START.mono).unwrap());
        let author = Author { client: ClientId::random(), is_known: false };
        Admitted { permit, project, author, pass: None, stranger_until: None }
    }

    fn is_full(core: &Core<Memory<Connections>>) -> bool {
        core.tenants.admit(&Project::default(), START.mono).is_err()
    }

    #[test]
    fn an_applicant_is_neither_read_nor_answered_before_the_verdict() {
        let mut core = shard();
        let id = applicant(&mut core);
        assert_eq!(core.wanted_read(START, id, 4_096), 0);
        assert_eq!(answer(&mut core, id), "");
        let admitted = admitted(&core);
        core.handle_verdict(START, id, Ok(admitted));
        assert!(answer(&mut core, id).starts_with("HTTP/1.1 101 "));
        assert!(core.wanted_read(START, id, 4_096) > 0);
        assert!(is_full(&core), "the connection holds the permit");
        core.handle_gone(START, id);
        assert!(!is_full(&core), "a closed connection returns it");
    }

    #[test]
    fn a_refused_applicant_gets_the_reason_and_holds_no_permit() {
        let mut core = shard();
        let id = applicant(&mut core);
        core.handle_verdict(START, id, Err(Refusal::new(401, "token: expired")));
        let answer = answer(&mut core, id);
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("token: expired"), "{answer}");
        assert!(core.closing(START, id).0);
        assert!(!is_full(&core));
    }

    #[test]
    fn an_applicant_without_a_verdict_is_refused_in_time() {
        let mut core = shard();
        let id = applicant(&mut core);
        let late = Now::at_ms(5_001, 1_700_000_005_000);
        core.handle_timeouts(late);
        assert!(answer(&mut core, id).starts_with("HTTP/1.1 503 "));
        let admitted = admitted(&core);
        core.handle_verdict(late, id, Ok(admitted));
        assert!(core.closing(late, id).0, "a late verdict has no effect");
        assert!(!is_full(&core), "and its permit is returned");
    }

    #[test]
    fn a_slow_client_does_not_use_up_the_time_of_the_verdict() {
        let mut core = shard();
        let id = slow_applicant(&mut core, Now::at_ms(4_001, 1_700_000_004_000));
        core.handle_timeouts(Now::at_ms(9_000, 1_700_000_008_999));
        assert_eq!(answer(&mut core, id), "");
        core.handle_timeouts(Now::at_ms(9_001, 1_700_000_009_000));
        assert!(answer(&mut core, id).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn an_applicant_gets_500_after_a_panic() {
        let mut core = shard();
        let id = applicant(&mut core);
        core.with_dirty(START, id, |_, _| panic!("a handler panics"));
        assert!(answer(&mut core, id).starts_with("HTTP/1.1 500 "));
        assert_eq!(core.counters().handshakes_refused[&500], 1);
    }

    #[test]
    fn a_late_verdict_never_reaches_the_next_connection_in_the_slot() {
        let mut core = shard();
        let first = applicant(&mut core);
        core.handle_gone(START, first);
        let second = applicant(&mut core);
        assert_eq!(first.slot, second.slot);
        let admitted = admitted(&core);
        core.handle_verdict(START, first, Ok(admitted));
        assert_eq!(answer(&mut core, second), "");
        assert!(!is_full(&core));
    }

    #[test]
    fn an_applicant_gets_503_when_the_server_drains() {
        let mut core = shard();
        let id = applicant(&mut core);
        core.handle_drain(START);
        assert!(answer(&mut core, id).starts_with("HTTP/1.1 503 "));
        assert_eq!(core.counters().handshakes_refused[&503], 1);
    }
}
