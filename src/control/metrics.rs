//! The page `/metrics`: the shards' counters and gauges in Prometheus' text format.
//!
//! The number of label values is bounded: a shard's number, a status code, a few words, but never a project,
//! a queue or a client.

mod auth;
mod claims;

use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::gate::REFUSALS;
use super::latency;
use crate::auth::Snapshot;
use crate::base::millis::UnixMillis;
use crate::latency::Recorder;
use crate::shard::certificates::CertificatesStatus;
use crate::shard::core::ShardSnapshot;
use crate::tls::{Failure, SUITES};

/// The statuses of refused handshakes that have a series from the start, because a rate needs a first value.
/// Other statuses get a series with their first refusal.
const HANDSHAKE_REFUSALS: [u16; 10] = [400, 401, 403, 404, 408, 426, 429, 431, 500, 503];

/// The labels `shard` and `status` of refusals by the acceptor, before any shard gets the connection.
const BY_ACCEPTOR: [&str; 2] = ["acceptor", "503"];

/// What the control port has counted itself.
pub(super) struct Own {
    /// Reloads of the settings that were applied and that failed, and when the settings were last read, in seconds
    /// since 1970.
    pub(super) reloads: (u64, u64, u64),
    /// Reloads of the tokens that were applied and that failed.
    pub(super) tokens: (u64, u64),
    /// Refused requests, by the statuses of [`REFUSALS`].
    pub(super) refused: [u64; 3],
    /// Audit lines that were dropped.
    pub(super) dropped_lines: u64,
    /// The present time.
    pub(super) unix: UnixMillis,
    /// What the judge of clients has done, if they must authenticate.
    pub(super) judge: Option<Snapshot>,
}

/// The metric families of one scrape.
struct Families {
    registry: Registry,
}

impl Families {
    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let family = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Creates the page. `stalls_of` returns how often the monitor saw a shard stall. `refused_by_acceptor` is
/// the number of connections that the acceptor refused.
pub(super) fn encode(
    shards: &[ShardSnapshot],
    stalls_of: impl Fn(usize) -> u64,
    refused_by_acceptor: u64,
    is_draining: bool,
    own: &Own,
    certificates: Option<CertificatesStatus>,
    latency: &Recorder,
) -> prometheus::Result<String> {
    let families = Families { registry: Registry::new() };
    let f = &families;
    let shard = &["shard"];
    let by_status = &["shard", "status"];
    let draining = IntGauge::new("millstream_draining", "1 while the server drains, else 0")?;
    f.registry.register(Box::new(draining.clone()))?;
    draining.set(i64::from(is_draining));
    let (reloaded, reload_failed, last_reloaded) = own.reloads;
    let reloads = f.counter("millstream_reloads_total", "Reloads of the settings, by result", &["result"])?;
    reloads.with_label_values(&["applied"]).inc_by(reloaded);
    reloads.with_label_values(&["failed"]).inc_by(reload_failed);
    let last_reload = IntGauge::new(
        "millstream_settings_read_timestamp_seconds",
        "When the settings were last read successfully, at the start or by a reload, in seconds since 1970",
    )?;
    f.registry.register(Box::new(last_reload.clone()))?;
    last_reload.set(i64::try_from(last_reloaded).unwrap_or(i64::MAX));
    add_own(f, own)?;
    if let Some(judge) = &own.judge {
        auth::add(f, shards, judge)?;
    }
    let connections = f.gauge("millstream_connections", "Connections open now", shard)?;
    let accepted = f.counter("millstream_connections_accepted_total", "Connections accepted", shard)?;
    let evicted = f.counter(
        "millstream_connections_evicted_total",
        "Connections closed because they read nothing while memory was short",
        shard,
    )?;
    let panics =
        f.counter("millstream_connection_panics_total", "Connections whose handling panicked", shard)?;
    let handshakes =
        f.counter("millstream_handshakes_refused_total", "Handshakes refused, by HTTP status", by_status)?;
    handshakes.with_label_values(&BY_ACCEPTOR).inc_by(refused_by_acceptor);
    let proxy_headers = f.counter(
        "millstream_proxy_headers_refused_total",
        "Connections closed because their PROXY header was missing, invalid or late",
        shard,
    )?;
    let operations = f.gauge("millstream_operations", "Operations open now, by kind", &["shard", "kind"])?;
    let begun = f.counter("millstream_operations_begun_total", "Operations begun", shard)?;
    let failed =
        f.counter("millstream_operations_failed_total", "Operations that failed, by status", by_status)?;
    let refused = f.counter(
        "millstream_messages_refused_total",
        "Messages refused individually while their operation continued, by status",
        by_status,
    )?;
    let received = f.counter("millstream_messages_received_total", "Messages that producers sent", shard)?;
    let received_bytes =
        f.counter("millstream_received_bytes_total", "Bytes of ProduceRequests received", shard)?;
    let delivered =
        f.counter("millstream_messages_delivered_total", "Messages framed for consumers", shard)?;
    let delivered_bytes =
        f.counter("millstream_delivered_bytes_total", "Bytes of ConsumeResponses framed", shard)?;
    let hopped =
        f.counter("millstream_messages_hopped_total", "Messages whose partition another shard owns", shard)?;
    let stored = f.counter("millstream_store_messages_stored_total", "Messages stored", shard)?;
    let dropped = f.counter(
        "millstream_store_messages_dropped_total",
        "Messages dropped unexpired because the store was full",
        shard,
    )?;
    let expired =
        f.counter("millstream_store_messages_expired_total", "Messages whose TTL has expired", shard)?;
    let unstored =
        f.counter("millstream_store_messages_refused_total", "Messages that the store refused", shard)?;
    let passed_over = f.counter(
        "millstream_store_records_passed_over_total",
        "Kafka records skipped because they are too large, counted at each read",
        shard,
    )?;
    let grouped_bytes = f.counter(
        "millstream_log_grouped_bytes_total",
        "Bytes of grouped log files that were written",
        shard,
    )?;
    let grouped_files = f.counter(
        "millstream_log_grouped_files_total",
        "Log files that were freed because a grouped file replaces them",
        shard,
    )?;
    let grouping = f.gauge(
        "millstream_log_grouping_files",
        "Log files that are being grouped, or are replaced and not free yet",
        shard,
    )?;
    let waiting = f.gauge("millstream_store_waiting_fetches", "Fetches that wait for messages", shard)?;
    let credit =
        f.gauge("millstream_producer_credit_messages", "Messages that producers may still send", shard)?;
    let behind = f.gauge(
        "millstream_consumers_behind",
        "Consume operations that read older messages, and are served after the others",
        shard,
    )?;
    let allowed = f.gauge(
        "millstream_producer_allowed_bytes",
        "Bytes that producers may have under way within produce_target_delay, 0 without a bound",
        shard,
    )?;
    let pace = f.gauge(
        "millstream_store_committed_bytes_per_second",
        "Rate at which the store commits when it is saturated, 0 before that",
        shard,
    )?;
    let shortest = f.seconds(
        "millstream_store_shortest_commit_seconds",
        "Shortest recent commit, 0 before the first",
        shard,
    )?;
    let usual = f.seconds(
        "millstream_store_usual_commit_seconds",
        "Mean commit while little is under way, 0 unless commits took longer than allowed",
        shard,
    )?;
    let ceiling = f.gauge("millstream_budget_ceiling_bytes", "shard_budget_bytes", shard)?;
    let reserved =
        f.gauge("millstream_budget_reserved_bytes", "Bytes reserved for input not accepted yet", shard)?;
    let held = f.gauge("millstream_budget_held_bytes", "Bytes read and not processed, or not sent", shard)?;
    let starved =
        f.gauge("millstream_budget_waiting_connections", "Connections that wait for memory", shard)?;
    let stalls =
        f.counter("millstream_shard_stalls_total", "Times that a shard stalled for 100 ms", shard)?;
    for snapshot in shards {
        let pulse = &snapshot.pulse;
        let number = pulse.shard.to_string();
        let shard = &[&number[..]];
        let counters = &pulse.counters;
        connections.with_label_values(shard).set(signed(pulse.connections));
        accepted.with_label_values(shard).inc_by(counters.connections);
        evicted.with_label_values(shard).inc_by(counters.evicted);
        panics.with_label_values(shard).inc_by(counters.panics);
        for status in HANDSHAKE_REFUSALS {
            handshakes.with_label_values(&[&number, &status.to_string()]);
        }
        for (status, count) in &counters.handshakes_refused {
            handshakes.with_label_values(&[&number, &status.to_string()]).inc_by(*count);
        }
        proxy_headers.with_label_values(shard).inc_by(counters.proxy_headers_refused);
        operations.with_label_values(&[&number[..], "produce"]).set(signed(snapshot.producing));
        operations.with_label_values(&[&number[..], "consume"]).set(signed(snapshot.consuming));
        operations.with_label_values(&[&number[..], "claim"]).set(signed(snapshot.claiming));
        begun.with_label_values(shard).inc_by(counters.sessions.operations);
        for (status, count) in counters.sessions.failed.iter() {
            failed.with_label_values(&[&number, &status.to_string()]).inc_by(count);
        }
        for (status, count) in counters.sessions.refused.iter() {
            refused.with_label_values(&[&number, &status.to_string()]).inc_by(count);
        }
        received.with_label_values(shard).inc_by(counters.sessions.received);
        received_bytes.with_label_values(shard).inc_by(counters.sessions.received_bytes);
        delivered.with_label_values(shard).inc_by(counters.sessions.delivered);
        delivered_bytes.with_label_values(shard).inc_by(counters.sessions.delivered_bytes);
        hopped.with_label_values(shard).inc_by(counters.messages_hopped);
        stored.with_label_values(shard).inc_by(pulse.store.stored);
        dropped.with_label_values(shard).inc_by(pulse.store.dropped);
        expired.with_label_values(shard).inc_by(pulse.store.expired);
        unstored.with_label_values(shard).inc_by(pulse.store.refused);
        passed_over.with_label_values(shard).inc_by(pulse.store.passed_over);
        grouped_bytes.with_label_values(shard).inc_by(pulse.store.grouping.bytes);
        grouped_files.with_label_values(shard).inc_by(pulse.store.grouping.files);
        grouping.with_label_values(shard).set(signed(pulse.store.grouping.waiting));
        waiting.with_label_values(shard).set(signed(snapshot.waiting_fetches));
        credit.with_label_values(shard).set(signed(snapshot.credit));
        behind.with_label_values(shard).set(signed(snapshot.behind));
        allowed.with_label_values(shard).set(signed(pulse.regulator.under_way_max));
        pace.with_label_values(shard).set(signed(pulse.regulator.rate));
        shortest.with_label_values(shard).set(pulse.regulator.shortest_commit_ns as f64 / 1e9);
        usual.with_label_values(shard).set(pulse.regulator.usual_commit_ns as f64 / 1e9);
        ceiling.with_label_values(shard).set(signed(pulse.budget.ceiling));
        reserved.with_label_values(shard).set(signed(pulse.budget.reserved));
        held.with_label_values(shard).set(signed(pulse.budget.held));
        starved.with_label_values(shard).set(signed(pulse.budget.waiting));
        stalls.with_label_values(shard).inc_by(stalls_of(usize::from(pulse.shard)));
    }
    claims::add(f, shards, own.unix)?;
    add_tls(f, shards, certificates)?;
    let mut all = families.registry.gather();
    all.extend(latency::families(latency));
    TextEncoder::new().encode_to_string(&all)
}

/// Adds the metrics of the control port itself.
fn add_own(f: &Families, own: &Own) -> prometheus::Result<()> {
    let refused = f.counter(
        "millstream_control_requests_refused_total",
        "Requests to the control port that lacked a right, by HTTP status",
        &["status"],
    )?;
    for (status, count) in REFUSALS.iter().zip(own.refused) {
        refused.with_label_values(&[status.as_str()]).inc_by(count);
    }
    let dropped = f.counter(
        "millstream_control_audit_lines_dropped_total",
        "Audit lines of the control port that were dropped, because there were too many in a second",
        &[],
    )?;
    dropped.with_label_values::<&str>(&[]).inc_by(own.dropped_lines);
    let tokens = f.counter(
        "millstream_control_token_reloads_total",
        "Times that the file control_tokens was read again, by result",
        &["result"],
    )?;
    let (applied, failed) = own.tokens;
    tokens.with_label_values(&["applied"]).inc_by(applied);
    tokens.with_label_values(&["failed"]).inc_by(failed);
    Ok(())
}

/// Adds the metrics of TLS. Those of certificates exist only if the server has a port for TLS.
fn add_tls(
    f: &Families,
    shards: &[ShardSnapshot],
    certificates: Option<CertificatesStatus>,
) -> prometheus::Result<()> {
    let shard = &["shard"];
    let handshakes = f.counter(
        "millstream_tls_handshakes_total",
        "TLS handshakes completed, by version and cipher suite",
        &["shard", "version", "suite"],
    )?;
    let failed = f.counter(
        "millstream_tls_handshakes_failed_total",
        "TLS handshakes that failed, by reason",
        &["shard", "reason"],
    )?;
    let broken = f.counter(
        "millstream_tls_connections_broken_total",
        "TLS connections that ended after the handshake with an invalid record or alert, or without close_notify",
        &["shard", "reason"],
    )?;
    let revoked = f.counter(
        "millstream_tls_connections_revoked_total",
        "TLS connections closed because a reload revoked the certificate of their client",
        shard,
    )?;
    let received =
        f.counter("millstream_tls_received_bytes_total", "Bytes received on TLS connections", shard)?;
    let sent = f.counter("millstream_tls_sent_bytes_total", "Bytes sent on TLS connections", shard)?;
    for snapshot in shards {
        let tls = &snapshot.pulse.tls;
        let number = snapshot.pulse.shard.to_string();
        let shard = &[&number[..]];
        for (suite, count) in SUITES.iter().zip(tls.handshakes) {
            handshakes.with_label_values(&[&number[..], suite.version, suite.name]).inc_by(count);
        }
        for (failure, count) in Failure::ALL.iter().zip(tls.failed) {
            failed.with_label_values(&[&number[..], failure.name()]).inc_by(count);
        }
        broken.with_label_values(&[&number[..], "invalid"]).inc_by(tls.broken);
        broken.with_label_values(&[&number[..], "truncated"]).inc_by(tls.truncated);
        revoked.with_label_values(shard).inc_by(tls.revoked);
        received.with_label_values(shard).inc_by(tls.received_bytes);
        sent.with_label_values(shard).inc_by(tls.sent_bytes);
    }
    let Some(CertificatesStatus { expires, crls_due, reloads, failures }) = certificates else {
        return Ok(());
    };
    let expiry = f.gauge(
        "millstream_tls_certificate_expiry_timestamp_seconds",
        "When the first certificate expires, in seconds since 1970",
        &[],
    )?;
    expiry.with_label_values::<&str>(&[]).set(expires);
    if let Some(due) = crls_due {
        let expiry = f.gauge(
            "millstream_tls_crl_expiry_timestamp_seconds",
            "When the first revocation list expires, in seconds since 1970",
            &[],
        )?;
        expiry.with_label_values::<&str>(&[]).set(due);
    }
    let reloaded =
        f.counter("millstream_tls_reloads_total", "Reloads of the certificates that succeeded", &[])?;
    reloaded.with_label_values::<&str>(&[]).inc_by(reloads);
    let reload_failures = f.counter(
        "millstream_tls_reload_failures_total",
        "Reloads of the certificates that failed, so that the server kept those that it had",
        &[],
    )?;
    reload_failures.with_label_values::<&str>(&[]).inc_by(failures);
    Ok(())
}
