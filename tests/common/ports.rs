//! Ports for servers that must know theirs before they start, or that start again on the same one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::ops::Range;

/// The kernel gives none of these to a socket that asks for any port, nor to an outgoing connection: they lie below
/// `net.ipv4.ip_local_port_range`, which begins at 32768. So a port of these stays free while its server is down.
const PORTS: Range<u16> = 10_000..32_000;

/// Returns the first of `count` consecutive ports that are free.
pub fn free(count: u16) -> u16 {
    let starts = u64::from(PORTS.end - PORTS.start - count);
    (0..10_000)
        .map(|_| PORTS.start + (RandomState::new().hash_one(()) % starts) as u16)
        .find(|first| {
            let bound: Result<Vec<_>, _> =
                (*first..first + count).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
            bound.is_ok()
        })
        .unwrap_or_else(|| panic!("no {count} ports in a row are free"))
}
