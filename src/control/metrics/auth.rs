//! The metrics of authentication. They exist only if clients must authenticate.

use super::{Families, signed};
use crate::auth::{Denial, ProviderKind, Snapshot};
use crate::shard::core::ShardSnapshot;

/// The provider of verdicts that no provider gave: no credential, or none of them knows it.
const NO_PROVIDER: &str = "none";
const GRANTED: &str = "granted";
/// The reasons of a shard's own refusals, besides those of [`Denial`].
const OWN_REASONS: [&str; 3] = ["project", "limit", "principal"];

/// Adds the metrics.
pub(super) fn add(f: &Families, shards: &[ShardSnapshot], judge: &Snapshot) -> prometheus::Result<()> {
    add_of_shards(f, shards)?;
    let verdicts = f.counter(
        "millstream_auth_verdicts_total",
        "Verdicts on credentials that shards did not remember, by provider and result",
        &["provider", "result"],
    )?;
    // A rate needs a first value.
    for kind in ProviderKind::ALL {
        verdicts.with_label_values(&[kind.name(), GRANTED]);
    }
    for ((provider, denial), count) in &judge.verdicts {
        let provider = provider.map_or(NO_PROVIDER, ProviderKind::name);
        let result = denial.map_or(GRANTED, Denial::name);
        verdicts.with_label_values(&[provider, result]).inc_by(*count);
    }
    let requests = f.counter(
        "millstream_auth_requests_total",
        "Requests to providers over the network, by provider and result",
        &["provider", "result"],
    )?;
    let took = f.seconds(
        "millstream_auth_requests_seconds",
        "How long requests to providers took together, by provider",
        &["provider"],
    )?;
    for kind in [ProviderKind::Jwt, ProviderKind::Keystone] {
        let counts = judge.requests.get(&kind).copied().unwrap_or_default();
        requests.with_label_values(&[kind.name(), "answered"]).inc_by(counts.answered);
        requests.with_label_values(&[kind.name(), "failed"]).inc_by(counts.failed);
        took.with_label_values(&[kind.name()]).set(counts.took.as_secs_f64());
    }
    let reloads = f.counter(
        "millstream_auth_reloads_total",
        "Times that the files of the providers were read again, by result",
        &["result"],
    )?;
    reloads.with_label_values(&["applied"]).inc_by(judge.reloads);
    reloads.with_label_values(&["failed"]).inc_by(judge.reload_failures);
    let none: [&str; 0] = [];
    for (name, help, value) in [
        ("millstream_auth_grants", "Grants in use", judge.grants),
        ("millstream_auth_grants_expiring", "Grants in use that end within five minutes", judge.expiring),
        ("millstream_auth_questions_waiting", "Questions that wait for a provider", judge.waiting),
        ("millstream_auth_addresses_throttled", "Addresses with too many failed attempts", judge.throttled),
    ] {
        f.gauge(name, help, &[])?.with_label_values(&none).set(signed(value));
    }
    for (name, help, value) in [
        (
            "millstream_auth_known_total",
            "Questions that a grant in use answered without a provider",
            judge.known,
        ),
        (
            "millstream_auth_grants_changed_total",
            "Grants in use that changed or ended before their time",
            judge.changed,
        ),
    ] {
        f.counter(name, help, &[])?.with_label_values(&none).inc_by(value);
    }
    Ok(())
}

fn add_of_shards(f: &Families, shards: &[ShardSnapshot]) -> prometheus::Result<()> {
    let shard = &["shard"];
    let admitted = f.counter("millstream_auth_admitted_total", "Clients that were admitted", shard)?;
    let failures = f.counter(
        "millstream_auth_failures_total",
        "Clients and renewals that were refused, by reason",
        &["shard", "reason"],
    )?;
    let lookups = f.counter(
        "millstream_auth_lookups_total",
        "Credentials of newcomers: remembered by the shard, or asked about",
        &["shard", "result"],
    )?;
    let forbidden =
        f.counter("millstream_auth_operations_forbidden_total", "Operations that no rule allowed", shard)?;
    let ended = f.counter(
        "millstream_auth_grants_ended_total",
        "Grants that ended on a live connection, by reason",
        &["shard", "reason"],
    )?;
    let renewed = f.counter("millstream_auth_renewals_total", "Renewals that were accepted", shard)?;
    let dropped = f.counter(
        "millstream_auth_audit_lines_dropped_total",
        "Lines of the audit log that were dropped, because there were too many in a second",
        shard,
    )?;
    for snapshot in shards {
        let counters = &snapshot.pulse.counters.auth;
        let number = snapshot.pulse.shard.to_string();
        let shard = &[&number[..]];
        admitted.with_label_values(shard).inc_by(counters.admitted);
        for reason in Denial::ALL.map(Denial::name).iter().chain(&OWN_REASONS) {
            failures.with_label_values(&[&number[..], reason]);
        }
        for (reason, count) in &counters.refused {
            failures.with_label_values(&[&number[..], reason]).inc_by(*count);
        }
        lookups.with_label_values(&[&number[..], "remembered"]).inc_by(counters.remembered);
        lookups.with_label_values(&[&number[..], "asked"]).inc_by(counters.asked);
        forbidden.with_label_values(shard).inc_by(counters.forbidden);
        ended.with_label_values(&[&number[..], "expired"]).inc_by(counters.expired);
        ended.with_label_values(&[&number[..], "revoked"]).inc_by(counters.revoked);
        renewed.with_label_values(shard).inc_by(counters.renewed);
        dropped.with_label_values(shard).inc_by(counters.audit_dropped);
    }
    Ok(())
}
