//! Counts the files that the server itself may open, and so the connections that the limit of open files
//! leaves room for.
//!
//! Each connection takes a descriptor. Without a limit, idle clients could take the descriptors that the log
//! needs for its next file and the control port for its next request. So this file counts the most that the
//! server may open itself, and the acceptor refuses connections beyond the rest.

use super::files::OPEN_MAX;
use super::unfit::Unfit;
use super::{Settings, refuser};
use crate::base::limits::CONTROL_CONNECTIONS_MAX;
use crate::store::StoreKind;
use crate::store::log::LOADS_MAX;

/// Standard input, output and error; the socket pair that delivers signals; a message to the service manager.
const PROCESS: u64 = 6;
/// The event that ends the acceptor, and a connection that is about to be refused.
const ACCEPTOR: u64 = 2;
/// Refused connections that stay open so that their clients can read why.
const REFUSED: u64 = refuser::OPEN_MAX as u64;
/// The control port's listening sockets (four are assumed), each twice, its runtime's epoll (twice) and eventfd, its
/// file of tokens, and a connection that is about to be refused.
const CONTROL: u64 = 13;
/// The latency log, and its new file during a reopen.
const LATENCY_LOG: u64 = 2;
/// The data directory's lock, and the directory itself.
const DATA_DIR: u64 = 2;
/// An executor's three rings, and the eventfd that wakes it.
const SHARD: u64 = 4;
/// Files of one shard's log that are open for reading: one for each load of older messages, or the most that
/// stay open while unused, whichever is more.
const SHARD_LOG_READS: usize = if LOADS_MAX > OPEN_MAX { LOADS_MAX } else { OPEN_MAX };
/// All files of one shard's log: the above, the written file opened in both modes, the next file, a file that
/// the shard is opening, and two of the helper thread.
const SHARD_LOG: u64 = SHARD_LOG_READS as u64 + 6;
/// The assumed number of brokers of a Kafka cluster, unless `kafka_brokers` names more.
const KAFKA_BROKERS: u64 = 6;
/// Descriptors of a librdkafka client for each broker: the socket, and the pipe that wakes its thread.
const KAFKA_BROKER: u64 = 3;
/// Internal brokers that librdkafka adds to those of the cluster: its own, and a group's coordinator.
const KAFKA_OWN_BROKERS: u64 = 2;
/// The clients of the whole server: two for the attributes of queues, and one for the operator's questions.
const KAFKA_OWN_CLIENTS: u64 = 3;
/// The pipes of the process that prints tokens for Kafka.
const KAFKA_TOKENS: u64 = 4;
/// Files that are open briefly: system information about disks and the process, certificates, and sockets
/// that a shard is closing.
const PASSING: u64 = 8;

/// Files of a client, apart from those of its executors and connections.
const CLIENT: u64 = 32;

/// How to raise the limit, for errors.
pub(super) const RAISE: &str = "ulimit -n, LimitNOFILE= in systemd, docker run --ulimit nofile=N";

/// Returns the most files that the server itself has open.
fn needed(settings: &Settings, has_control: bool) -> u64 {
    let shards = settings.shard_cores().len() as u64;
    let listeners = settings.listen.count() as u64;
    // The sockets, and inotify for the certificates.
    let tls = settings.tls_listen.as_ref().map_or(0, |listen| listen.count() as u64 + 1);
    let store = match settings.store.kind {
        StoreKind::Memory => 0,
        StoreKind::Log => DATA_DIR + shards * SHARD_LOG,
        StoreKind::Kafka => {
            let kafka = &settings.store.kafka;
            let brokers = (kafka.brokers.split(',').count() as u64).max(KAFKA_BROKERS) + KAFKA_OWN_BROKERS;
            // Each shard has a producer, a consumer of the tails, and its share of the readers.
            let clients =
                shards * (2 + (kafka.catch_up_readers as u64).div_ceil(shards.max(1))) + KAFKA_OWN_CLIENTS;
            KAFKA_TOKENS + clients * brokers * KAFKA_BROKER
        }
    };
    let control = if has_control { CONTROL + CONTROL_CONNECTIONS_MAX as u64 } else { 0 };
    let latency_log = if settings.latency.log.is_some() { LATENCY_LOG } else { 0 };
    PROCESS + listeners + ACCEPTOR + REFUSED + control + tls + latency_log + shards * SHARD + store + PASSING
}

/// Returns how many connections all shards together may have if `limit` files may be open, and a warning if
/// the settings allow more.
///
/// Without a warning the number exceeds what `max_connections` allows, so that the shards refuse connections,
/// with that reason.
pub(super) fn connections(
    limit: u64,
    settings: &Settings,
    has_control: bool,
) -> Result<(usize, Option<String>), Unfit> {
    let needed = needed(settings, has_control);
    let shards = settings.shard_cores().len();
    if limit <= needed {
        return Err(Unfit(format!(
            "only {limit} files may be open (RLIMIT_NOFILE); the server itself needs {needed}, and one more for each connection: \
             raise the limit ({RAISE}), or use fewer cores (cores)"
        )));
    }
    let room = usize::try_from(limit - needed).unwrap_or(usize::MAX);
    let wanted = shards.saturating_mul(settings.core.max_connections);
    let warning = (room < wanted).then(|| {
        format!(
            "only {limit} files may be open (RLIMIT_NOFILE), and the server itself needs {needed}: connections beyond {room} are \
             refused with 503, although max_connections allows {wanted} on {shards} shards; raise the limit to {} ({RAISE}), or \
             lower max_connections",
            needed.saturating_add(wanted as u64)
        )
    });
    // The acceptor has one more descriptor, for a connection that is about to be refused.
    let connections_max = if room < wanted { room } else { room.max(wanted.saturating_add(1)) };
    Ok((connections_max, warning))
}

/// Checks that a client with this many executors and connections may open its files.
pub(super) fn check_client(limit: u64, executors: u64, connections: u64) -> Result<(), Unfit> {
    let needed = CLIENT + executors * SHARD + connections;
    if limit >= needed {
        return Ok(());
    }
    Err(Unfit(format!(
        "only {limit} files may be open (RLIMIT_NOFILE), but a client of {connections} connections needs {needed}: raise the limit \
         ({RAISE}), or open fewer connections"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::address::{Address, Addresses};
    use crate::shard::cores::Cores;

    fn settings(store: StoreKind, shards: usize) -> Settings {
        let mut settings = Settings::default();
        settings.store.kind = store;
        settings.cores = Cores((0..shards).collect());
        settings
    }

    #[test]
    fn connections_get_the_files_that_the_server_does_not_need() {
        let mut settings = settings(StoreKind::Log, 1);
        let needed = needed(&settings, true);
        assert!((60..120).contains(&needed), "{needed}");
        let why = connections(needed, &settings, true).unwrap_err().0;
        let (open, wanted) = (format!("only {needed} files"), format!("needs {needed}"));
        for words in [&open[..], "RLIMIT_NOFILE", &wanted[..], "ulimit -n", "fewer cores (cores)"] {
            assert!(why.contains(words), "{words}: {why}");
        }
        let (room, warning) = connections(needed + 10, &settings, true).unwrap();
        assert_eq!(room, 10);
        let warning = warning.unwrap();
        assert!(
            warning.contains("503") && warning.contains(&format!("raise the limit to {}", needed + 65_536)),
            "{warning}"
        );
        settings.core.max_connections = 10;
        // `max_connections` is reached first, so the shard refuses.
        assert_eq!(connections(needed + 10, &settings, true), Ok((11, None)));
        assert_eq!(connections(needed + 20, &settings, true), Ok((20, None)));
        let (room, warning) = connections(u64::MAX, &settings, true).unwrap();
        assert!(room > 10 && warning.is_none(), "{room}");
    }

    #[test]
    fn a_client_needs_a_file_for_each_connection() {
        assert_eq!(check_client(1024, 2, 900), Ok(()));
        let why = check_client(1024, 2, 1000).unwrap_err().0;
        assert!(
            why.contains("only 1024 files") && why.contains("needs 1040") && why.contains("ulimit -n"),
            "{why}"
        );
    }

    #[test]
    fn every_part_of_the_server_is_counted() {
        let base = needed(&settings(StoreKind::Memory, 1), true);
        let mut listening = settings(StoreKind::Memory, 1);
        let addresses = |ports: std::ops::Range<u16>| {
            let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
            ports.map(address).collect::<Addresses>()
        };
        listening.listen = addresses(9_000..9_004);
        assert_eq!(needed(&listening, true), base + 3);
        listening.tls_listen = Some(addresses(9_443..9_445));
        assert_eq!(needed(&listening, true), base + 3 + 2 + 1, "two sockets, and inotify");
        assert_eq!(needed(&settings(StoreKind::Memory, 3), true), base + 2 * SHARD);
        assert_eq!(needed(&settings(StoreKind::Log, 3), true), base + 2 * SHARD + DATA_DIR + 3 * SHARD_LOG);
        let mut kafka = settings(StoreKind::Kafka, 2);
        kafka.store.kafka.brokers = "one:9092".into();
        let few = needed(&kafka, true);
        assert!(few > base + 2 * 2 * KAFKA_BROKERS * KAFKA_BROKER, "{few}");
        kafka.store.kafka.brokers = vec!["broker:9092"; 20].join(",");
        assert!(needed(&kafka, true) > few, "more brokers are named than assumed");
        let mut bare = settings(StoreKind::Memory, 1);
        assert_eq!(needed(&bare, false), base - CONTROL - CONTROL_CONNECTIONS_MAX as u64);
        bare.latency.log = Some("latency.hlog".into());
        assert_eq!(needed(&bare, false), base - CONTROL - CONTROL_CONNECTIONS_MAX as u64 + LATENCY_LOG);
    }
}
