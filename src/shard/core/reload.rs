//! Takes over the settings of a reload.

use std::sync::Arc;

use super::deadlines::Armed;
use super::{Connections, Core, Settings};
use crate::base::clock::Now;
use crate::store::Store;

impl<S: Store<Connections>> Core<S> {
    /// Continues with other settings. They may differ from the present ones only in what a reload applies
    /// ([`Applies::OnReload`](crate::base::setting::Applies)).
    ///
    /// Open connections stay, also beyond a lower limit. Their times of silence begin anew: a peer that was
    /// silent for longer than a new, shorter `idle_timeout` was never pinged, and must not be given up. An
    /// incomplete pb keeps the deadline that it began with, and so does a handshake.
    pub fn handle_reload(&mut self, now: Now, settings: Arc<Settings>) {
        self.catalogue.set_max(settings.max_queues);
        self.settings = settings;
        // A shorter timeout is due before the deadlines that are armed.
        self.deadlines.clear();
        for id in self.connections.ids().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.excuse(now);
                connection.armed = Armed::default();
            }
            self.after(now, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{ConnectionId, Peer};
    use super::*;
    use crate::access::{ProjectLimits, Tenants};
    use crate::store::Memory;
    use crate::store::memory::WhenFull;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn at(seconds: u64) -> Now {
        Now::at_ms(1_000 * seconds, 1_700_000_000_000 + 1_000 * seconds)
    }

    fn settings(ping_secs: u64, idle_secs: u64) -> Arc<Settings> {
        Arc::new(Settings {
            ping_interval: Duration::from_secs(ping_secs),
            idle_timeout: Duration::from_secs(idle_secs),
            ..Settings::default()
        })
    }

    /// Returns a shard and a connection that was last heard at second 1.
    fn shard(settings: Arc<Settings>) -> (Core<Memory<Connections>>, ConnectionId) {
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let mut core = Core::new(0, 1, settings, tenants, Memory::new(1 << 20, WhenFull::Refuse, 7));
        let id = core.handle_accepted(at(1), Peer::Unix).unwrap();
        core.handle_received(at(1), id, &mut REQUEST.to_vec(), || at(1));
        assert!(sent(&mut core, 1, id).starts_with(b"HTTP/1.1 101 "));
        (core, id)
    }

    /// Returns what the connection sends at a second, when its deadlines are handled.
    fn sent(core: &mut Core<Memory<Connections>>, second: u64, id: ConnectionId) -> Vec<u8> {
        core.handle_timeouts(at(second));
        let bytes = core.poll_transmit(at(second), id).to_vec();
        core.handle_sent(at(second), id, bytes.len(), true);
        bytes
    }

    const PING: u8 = 0x89;
    const CLOSE: u8 = 0x88;

    #[test]
    fn a_shorter_timeout_pings_a_silent_peer_before_it_gives_it_up() {
        let (mut core, id) = shard(settings(30, 90));
        core.handle_reload(at(25), settings(5, 10));
        assert_eq!(sent(&mut core, 29, id), b"", "its silence begins anew");
        assert_eq!(sent(&mut core, 30, id)[0], PING);
        assert_eq!(sent(&mut core, 34, id), b"");
        assert_eq!(sent(&mut core, 35, id)[0], CLOSE);
    }

    #[test]
    fn a_longer_timeout_applies_to_a_peer_that_was_pinged() {
        let (mut core, id) = shard(settings(5, 10));
        assert_eq!(sent(&mut core, 6, id)[0], PING);
        core.handle_reload(at(10), settings(30, 90));
        assert_eq!(sent(&mut core, 99, id), b"");
        assert_eq!(sent(&mut core, 100, id)[0], CLOSE);
    }

    #[test]
    fn an_unfinished_handshake_gets_no_more_time() {
        let (mut core, _) = shard(settings(30, 90));
        let id = core.handle_accepted(at(1), Peer::Unix).unwrap();
        core.handle_received(at(1), id, &mut REQUEST[..20].to_vec(), || at(1));
        let timeout = Settings::default().handshake_timeout.as_secs();
        core.handle_reload(at(timeout), settings(30, 90));
        assert_eq!(sent(&mut core, timeout, id), b"");
        assert!(sent(&mut core, timeout + 1, id).starts_with(b"HTTP/1.1 408 "));
    }

    #[test]
    fn connections_above_a_lower_limit_stay() {
        let (mut core, id) = shard(settings(30, 90));
        let limit = |max_connections| Arc::new(Settings { max_connections, ..Settings::default() });
        core.handle_reload(at(2), limit(1));
        assert!(core.handle_accepted(at(2), Peer::Unix).is_none());
        assert_eq!(core.connections(), 1);
        assert!(core.wanted_read(at(2), id, 10) > 0, "it is served");
        core.handle_reload(at(2), limit(2));
        assert!(core.handle_accepted(at(2), Peer::Unix).is_some());
    }
}
