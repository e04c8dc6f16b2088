//! The result of a load.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::result::Figures;
use super::super::stamp::Verdict;
use super::caller::Tally;
use super::format::Format;
use super::load::{CLAIMED, Load, Workload};
use crate::client::zaqar::is_success;
use crate::latency::Summary;
use crate::process::terminal::escaped;

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// What the connections asked for.
    pub workload: Workload,
    /// The format of requests and answers.
    pub format: Format,
    /// The number of connections that sent requests.
    pub connections: u32,
    /// How many requests of a connection could be under way.
    pub depth: usize,
    /// The messages of a request.
    pub batch: usize,
    /// The size of a message's body, in bytes.
    pub bytes: usize,
    /// The number of subscribers.
    pub subscribers: u32,
    /// The scheduled rate, in requests per second. `None` for a closed loop.
    pub rate: Option<f64>,
    /// The version and the cipher suite of TLS. `None` if the connections did not use it.
    pub tls: Option<String>,
    /// The length of the measured time.
    pub measured_seconds: f64,
    /// The number of requests, or rounds of a claim, that succeeded, also outside of the measured time.
    pub requests: u64,
    /// The same per second of the measured time.
    pub requests_per_second: f64,
    /// The messages of those requests per second. `None` if they carry none.
    pub messages_per_second: Option<f64>,
    /// The time from when a request, or a round, should have begun to its end. For posts, one sample per message.
    pub latency: Option<Summary>,
    /// How many messages a claim took on average.
    pub messages_per_claim: Option<f64>,
    /// How many messages a list returned, at least.
    pub messages_per_list: Option<usize>,
    /// The number of claims that found nothing.
    pub empty_claims: u64,
    /// Notifications per second of the measured time, of all subscribers together.
    pub notifications_per_second: Option<f64>,
    /// The time from when a message should have been posted to its receipt by a subscriber.
    pub notification_latency: Option<Summary>,
    /// The outcome of the verification of notifications.
    pub verified: Verdict,
    /// The number of notifications that never arrived.
    pub missing: u64,
    /// How many answers had each status, also outside of the measured time.
    pub statuses: BTreeMap<u16, u64>,
    /// The number of requests that were due and could not be sent.
    pub unsent: u64,
    /// The CPU time of the server in the measured time.
    pub server_cpu_seconds: Option<f64>,
    /// The memory of the server at the end, in bytes.
    pub server_resident_bytes: Option<u64>,
    /// Why requests failed, once for each reason.
    pub failures: Vec<String>,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// Whether the run kept to its schedule.
    pub is_sustained: bool,
    is_verified: bool,
}

impl Report {
    /// Creates the report of a run from its figures, whose producers were the connections that sent requests.
    pub(super) fn new(load: &Load, figures: Figures, called: &[Tally]) -> Self {
        let batch = load.plan.batch as u64;
        let has_messages = load.workload.has_messages();
        let mut statuses = BTreeMap::new();
        for (status, count) in called.iter().flat_map(|one| &one.statuses) {
            *statuses.entry(*status).or_default() += count;
        }
        let empty_claims = called.iter().map(|one| one.empty).sum();
        let rounds = figures.acknowledged;
        let claimed: u64 = called.iter().map(|one| one.claimed).sum();
        let is_claim = load.workload == Workload::Claim;
        let mut failures = figures.failures.clone();
        failures.sort();
        failures.dedup();
        let subscribes = figures.consumers > 0;
        Self {
            workload: load.workload,
            format: load.format,
            connections: figures.producers,
            depth: load.depth,
            batch: load.plan.batch,
            bytes: figures.size,
            subscribers: figures.consumers,
            rate: figures.rate.map(|rate| rate / batch as f64),
            measured_seconds: figures.measured_seconds,
            requests: figures.acknowledged / batch,
            requests_per_second: figures.acknowledged_per_second / batch as f64,
            messages_per_second: has_messages.then_some(figures.acknowledged_per_second),
            latency: figures.produce_latency,
            messages_per_claim: (is_claim && rounds > 0).then(|| claimed as f64 / rounds as f64),
            messages_per_list: called.iter().filter_map(|one| one.page).min(),
            empty_claims,
            notifications_per_second: subscribes.then_some(figures.received_per_second),
            notification_latency: figures.end_to_end_latency,
            verified: figures.verified,
            missing: figures.missing,
            statuses,
            unsent: figures.unsent / batch,
            server_cpu_seconds: figures.server_cpu_seconds,
            server_resident_bytes: figures.server_resident_bytes,
            failures,
            interrupted: figures.interrupted,
            is_sustained: figures.is_sustained(),
            is_verified: figures.is_sound(),
            tls: figures.tls,
        }
    }

    /// Returns whether every request succeeded and every notification arrived, once and in order.
    pub fn is_sound(&self) -> bool {
        self.is_verified && self.statuses.keys().all(|status| is_success(*status)) && self.requests > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{:?}", self.workload).to_lowercase();
        let format = format!("{:?}", self.format).to_lowercase();
        write!(
            f,
            "{name}: {} B, {format}, {} connections, {} requests under way on each",
            self.bytes, self.connections, self.depth
        )?;
        if self.workload.has_messages() {
            write!(f, ", {} per request", self.batch)?;
        }
        if self.subscribers > 0 {
            write!(f, ", {} subscribers", self.subscribers)?;
        }
        if let Some(tls) = &self.tls {
            write!(f, ", {}", escaped(tls))?;
        }
        match self.rate {
            Some(rate) => writeln!(f, ", {rate:.0} /s on schedule, {:.1} s", self.measured_seconds)?,
            None => writeln!(f, ", {:.1} s", self.measured_seconds)?,
        }
        let unit = if self.workload == Workload::Claim { "rounds  " } else { "requests" };
        writeln!(f, "  {unit}      {:>12.0} /s", self.requests_per_second)?;
        if let Some(rate) = self.messages_per_second {
            writeln!(f, "  messages      {rate:>12.0} /s")?;
        }
        if let Some(latency) = &self.latency {
            writeln!(f, "  latency       {latency}")?;
        }
        if let Some(rate) = self.notifications_per_second {
            writeln!(f, "  notifications {rate:>12.0} /s")?;
        }
        if let Some(latency) = &self.notification_latency {
            writeln!(f, "  post to end   {latency}")?;
        }
        if let Some(each) = self.messages_per_claim {
            writeln!(
                f,
                "  claims        {each:.1} messages each of at most {CLAIMED}, {} were empty",
                self.empty_claims
            )?;
        }
        if let Some(page) = self.messages_per_list {
            writeln!(f, "  page          {page} messages of at most {CLAIMED}")?;
        }
        if let Some(seconds) = self.server_cpu_seconds {
            writeln!(f, "  server CPU    {seconds:.2} s")?;
        }
        if let Some(bytes) = self.server_resident_bytes {
            writeln!(f, "  server memory {:.0} MB", bytes as f64 / 1e6)?;
        }
        let statuses: Vec<String> =
            self.statuses.iter().map(|(status, count)| format!("{count} × {status}")).collect();
        writeln!(f, "  answers       {}", statuses.join(", "))?;
        if self.subscribers > 0 {
            let Verdict { received, lost, repeated_or_out_of_order, foreign, .. } = self.verified;
            writeln!(
                f,
                "  verified      {received} notifications: {} missing, {lost} lost, {repeated_or_out_of_order} \
                 repeated or out of order, {foreign} foreign",
                self.missing
            )?;
        }
        if self.interrupted {
            writeln!(f, "  interrupted   figures cover the time until then")?;
        } else if self.unsent > 0 {
            writeln!(f, "  not sustained {} requests were due and could not be sent", self.unsent)?;
        } else if !self.is_sustained {
            writeln!(f, "  not sustained fewer requests succeeded than were due")?;
        }
        for failure in &self.failures {
            writeln!(f, "  failed        {}", escaped(failure))?;
        }
        Ok(())
    }
}
