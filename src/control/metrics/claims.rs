//! The metrics of claims.

use super::{Families, signed};
use crate::base::millis::UnixMillis;
use crate::shard::core::ShardSnapshot;

/// Adds the metrics. `unix` is the present time.
pub(super) fn add(f: &Families, shards: &[ShardSnapshot], unix: UnixMillis) -> prometheus::Result<()> {
    let shard = &["shard"];
    let granted = f.counter(
        "millstream_claims_messages_granted_total",
        "Messages that were given out to workers, each time counted",
        shard,
    )?;
    let settled = f.counter(
        "millstream_claims_messages_settled_total",
        "Claimed messages that were settled, by kind; lost: too late, because they were given out again",
        &["shard", "kind"],
    )?;
    let expired = f.counter(
        "millstream_claims_messages_expired_total",
        "Claimed messages whose lease ended without a settlement",
        shard,
    )?;
    let leased = f.gauge("millstream_claims_leased_messages", "Messages that are leased now", shard)?;
    let unsettled = f.gauge(
        "millstream_claims_unsettled_messages",
        "Messages that were given out and are not settled, whether their lease has ended or not",
        shard,
    )?;
    let oldest = f.seconds(
        "millstream_claims_oldest_unsettled_seconds",
        "Age of the oldest message that was given out and is not settled, 0 without one",
        shard,
    )?;
    let moved = f.counter(
        "millstream_claims_messages_moved_total",
        "Messages that were moved to a dead-letter queue or back from one, or deleted because they had been moved too often",
        &["shard", "kind"],
    )?;
    for snapshot in shards {
        let claims = &snapshot.pulse.claims;
        let number = snapshot.pulse.shard.to_string();
        let shard = &[&number[..]];
        granted.with_label_values(shard).inc_by(claims.granted);
        for (kind, count) in [
            ("ack", claims.acked),
            ("release", claims.released),
            ("reject", claims.rejected),
            ("renew", claims.renewed),
            ("lost", claims.lost),
        ] {
            settled.with_label_values(&[&number[..], kind]).inc_by(count);
        }
        for (kind, count) in
            [("dead", claims.dead), ("redriven", claims.redriven), ("dropped", claims.dropped_dead)]
        {
            moved.with_label_values(&[&number[..], kind]).inc_by(count);
        }
        expired.with_label_values(shard).inc_by(claims.expired);
        leased.with_label_values(shard).set(signed(claims.held));
        unsettled.with_label_values(shard).set(signed(claims.unsettled));
        let age = claims.oldest.map_or(0.0, |oldest| unix.since(oldest).get() as f64 / 1e3);
        oldest.with_label_values(shard).set(age);
    }
    Ok(())
}
