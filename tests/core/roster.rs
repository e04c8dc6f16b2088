//! Describing connections in parts, and closing one, without sockets.

use std::sync::Arc;

use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::Now;
use millstream::shard::core::{ConnectionId, Connections, Core, Peer, ROSTER_SLOTS, Settings};
use millstream::store::memory::{Memory, WhenFull};

use super::HANDSHAKE;

fn core() -> Core<Memory<Connections>> {
    let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
    let store = Memory::new(64 << 20, WhenFull::Refuse, 7);
    Core::new(0, 1, Arc::new(Settings::default()), tenants, store)
}

fn now() -> Now {
    Now::at_ms(1, 1_700_000_000_000)
}

/// Receives bytes, and returns everything that the connection then has to send.
fn receive(core: &mut Core<Memory<Connections>>, id: ConnectionId, input: &[u8]) -> Vec<u8> {
    core.handle_received(now(), id, &mut input.to_vec(), now);
    sent(core, id)
}

fn sent(core: &mut Core<Memory<Connections>>, id: ConnectionId) -> Vec<u8> {
    let bytes = core.poll_transmit(now(), id).to_vec();
    core.handle_sent(now(), id, bytes.len(), true);
    bytes
}

#[test]
fn connections_are_described_in_bounded_parts_each_once() {
    let mut core = core();
    let ids: Vec<ConnectionId> =
        (0..2 * ROSTER_SLOTS + 10).map(|_| core.handle_accepted(now(), Peer::Unix).unwrap()).collect();
    core.handle_gone(now(), ids[300]);
    let (mut seen, mut from, mut parts) = (Vec::new(), Some(0), 0);
    while let Some(slot) = from {
        let part = core.roster(slot, |id| id.slot == 5);
        assert!(part.connections.len() <= ROSTER_SLOTS as usize);
        seen.extend(part.connections);
        (from, parts) = (part.next, parts + 1);
    }
    let expected: Vec<_> = ids.iter().filter(|id| **id != ids[300]).copied().collect();
    assert_eq!((seen.iter().map(|one| one.id).collect::<Vec<_>>(), parts), (expected, 3));
    assert!(seen.iter().all(|one| one.is_secure == (one.id.slot == 5)));
    assert!(
        seen.iter().all(|one| one.kind == "handshake" && one.project.is_none() && one.peer == Peer::Unix)
    );
    assert_eq!(core.roster(u32::MAX, |_| false).connections.len(), 0);
}

#[test]
fn a_dismissed_connection_is_told_why_and_only_once() {
    let mut core = core();
    let id = core.handle_accepted(now(), Peer::Unix).unwrap();
    assert!(receive(&mut core, id, HANDSHAKE.as_bytes()).starts_with(b"HTTP/1.1 101"));
    let open = &core.roster(0, |_| false).connections[0];
    assert_eq!((open.kind, open.project.as_ref().unwrap().as_str()), ("idle", "default"));
    assert!(core.dismiss(now(), id));
    let reason = b"closed by the operator";
    let close = [&[0x88, 2 + reason.len() as u8, 0x03, 0xe9], &reason[..]].concat();
    assert_eq!(sent(&mut core, id), close);
    assert!(!core.dismiss(now(), id), "it closes already");
    assert_eq!(core.roster(0, |_| false).connections[0].kind, "closing");
    core.handle_gone(now(), id);
    let next = core.handle_accepted(now(), Peer::Unix).unwrap();
    assert_eq!(next.slot, id.slot);
    assert!(!core.dismiss(now(), id), "the next connection in the slot stays");
    assert!(core.dismiss(now(), next));
    let refused = String::from_utf8(sent(&mut core, next)).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("closed by the operator"), "{refused}");
}
