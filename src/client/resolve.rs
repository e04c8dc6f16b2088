//! Resolves host names, anew for each connection, because the addresses of a name can change.
//!
//! The system's resolver blocks, so each lookup runs on its own thread and never on an executor. Connections
//! that look up the same name at the same time share one lookup, so there is at most one thread per name.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use async_channel::Sender;
use glommio::timer::Timer;
use url::Host;

/// How long a connection waits for a lookup. The lookup itself continues, and the next attempt uses its
/// result.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);

/// The largest number of addresses to try per name.
const ADDRESSES_MAX: usize = 16;

/// A function that returns the addresses of a name. It may block.
pub(super) type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Calls the system's resolver.
pub(super) fn system(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.take(ADDRESSES_MAX).collect())
}

type Key = (String, u16);
type Answer = Result<Vec<SocketAddr>, String>;

/// The running lookups, each with the connections that wait for it.
static UNDER_WAY: Mutex<BTreeMap<Key, Vec<Sender<Answer>>>> = Mutex::new(BTreeMap::new());

fn under_way() -> MutexGuard<'static, BTreeMap<Key, Vec<Sender<Answer>>>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns every IPv4 and IPv6 address of a host, in the order that the system prefers.
pub(super) async fn resolve(host: &Host<String>, port: u16, lookup: Lookup) -> io::Result<Vec<SocketAddr>> {
    match host {
        Host::Ipv4(ip) => Ok(vec![(*ip, port).into()]),
        Host::Ipv6(ip) => Ok(vec![(*ip, port).into()]),
        Host::Domain(name) => look_up(name, port, lookup).await,
    }
}

async fn look_up(name: &str, port: u16, lookup: Lookup) -> io::Result<Vec<SocketAddr>> {
    let (to, answer) = async_channel::bounded(1);
    let key = (name.to_owned(), port);
    let is_first = {
        let mut lookups = under_way();
        let waiting = lookups.entry(key.clone()).or_default();
        waiting.push(to);
        waiting.len() == 1
    };
    if is_first {
        let of_thread = key.clone();
        let started = thread::Builder::new().name("resolver".into()).spawn(move || run(&of_thread, lookup));
        if let Err(error) = started {
            under_way().remove(&key);
            return Err(error);
        }
    }
    let failed = |kind, why: &str| io::Error::new(kind, format!("{name}: {why}"));
    let answered = async {
        match answer.recv().await {
            Ok(Ok(addresses)) if addresses.is_empty() => {
                Err(failed(io::ErrorKind::NotFound, "the name has no address"))
            }
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(why)) => Err(failed(io::ErrorKind::NotFound, &why)),
            // The connection that began this lookup could not start its thread.
            Err(_) => Err(failed(io::ErrorKind::Other, "no thread could be started for the lookup")),
        }
    };
    let timeout = async {
        Timer::new(LOOKUP_TIMEOUT).await;
        let why = format!("no answer to the lookup within {} s", LOOKUP_TIMEOUT.as_secs());
        Err(failed(io::ErrorKind::TimedOut, &why))
    };
    futures_lite::future::or(answered, timeout).await
}

/// Runs one lookup on its thread.
fn run(key: &Key, lookup: Lookup) {
    let (name, port) = key;
    let answer: Answer = lookup(name, *port).map_err(|error| error.to_string());
    let waiting = under_way().remove(key).unwrap_or_default();
    for one in waiting {
        // Fails if the connection no longer waits.
        let _ = one.try_send(answer.clone());
    }
}
