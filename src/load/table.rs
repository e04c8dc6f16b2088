//! The result as a table for people.

use std::fmt;

use super::result::{ClaimFigures, Fairness, Figures, Knee, ResultFile, RunResult};
use super::stamp::Verdict;
use crate::control::StagePage;
use crate::latency::{Stage, Summary, Unit, time};
use crate::process::terminal::escaped;

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} B, {} per request", self.mode, self.size, self.batch)?;
        let takers = if self.claims.is_some() { "workers" } else { "consumers" };
        write!(f, ", {} producers, {} {takers}", self.producers, self.consumers)?;
        for (count, what) in [
            (self.queues, "queues"),
            (self.keys, "keys"),
            (self.idle, "idle connections"),
            (self.stalled, "stalled readers"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if let Some(tls) = &self.tls {
            write!(f, ", {}", escaped(tls))?;
        }
        match self.rate {
            Some(rate) => writeln!(f, ", {rate:.0} /s on schedule, {:.1} s", self.measured_seconds)?,
            None => writeln!(f, ", {:.1} s", self.measured_seconds)?,
        }
        if self.producers > 0 {
            let rate = self.acknowledged_per_second;
            writeln!(f, "  acknowledged  {rate:>12.0} /s  {:>9.1} MB/s", self.acknowledged_bytes() / 1e6)?;
        }
        if let Some(latency) = &self.produce_latency {
            writeln!(f, "  latency       {latency}")?;
        }
        if self.consumers > 0 {
            let rate = self.received_per_second;
            let received = if self.claims.is_some() { "claimed " } else { "received" };
            writeln!(f, "  {received}      {rate:>12.0} /s  {:>9.1} MB/s", self.received_bytes() / 1e6)?;
        }
        if let Some(latency) = &self.end_to_end_latency {
            writeln!(f, "  end to end    {latency}")?;
        }
        if let Some(claims) = &self.claims {
            write_claims(f, claims, self.size)?;
        }
        for (name, fairness) in [("producers", self.producer_fairness), (takers, self.consumer_fairness)] {
            if let Some(fairness) = fairness {
                writeln!(f, "  {name:<14}{fairness}")?;
            }
        }
        if let Some(latency) = &self.setup_latency {
            writeln!(f, "  set up        {latency}")?;
        }
        if let (Some(seconds), Some(each)) = (self.server_cpu_seconds, self.server_cpu_seconds_per_million) {
            writeln!(f, "  server CPU    {seconds:.2} s, {each:.3} s per million messages")?;
        }
        if let Some(bytes) = self.server_resident_bytes {
            writeln!(f, "  server memory {:.0} MB", bytes as f64 / 1e6)?;
        }
        if let Some(bytes) = self.server_held_bytes {
            let each = bytes as f64 / f64::from((self.idle + self.stalled).max(1));
            writeln!(f, "  idle memory   {each:.0} B per connection")?;
        }
        if self.interrupted {
            writeln!(f, "  interrupted   figures cover the time until then")?;
        } else if self.unsent > 0 {
            writeln!(f, "  not sustained {} messages were due and could not be sent", self.unsent)?;
        } else if !self.is_sustained() {
            writeln!(f, "  not sustained fewer messages were acknowledged than were due")?;
        }
        let Verdict { received, lost, repeated_or_out_of_order, foreign, others, .. } = self.verified;
        writeln!(
            f,
            "  verified      {} acknowledged, {} refused; {received} received: {} missing, {lost} lost, \
             {repeated_or_out_of_order} repeated or out of order, {foreign} foreign",
            self.acknowledged, self.refused, self.missing
        )?;
        if let Some(ClaimFigures { settled, twice, again, expired, .. }) = self.claims {
            writeln!(
                f,
                "  claims        {settled} acknowledged by workers; {twice} at two workers at once, {again} claimed \
                 again after their acknowledgement was confirmed, {expired} not acknowledged in time"
            )?;
        }
        if others > 0 {
            writeln!(f, "  of others     {others} messages of other runs also arrived")?;
        }
        for failure in &self.failures {
            writeln!(f, "  failed        {}", escaped(failure))?;
        }
        Ok(())
    }
}

/// Writes what workers have acknowledged.
fn write_claims(f: &mut fmt::Formatter<'_>, claims: &ClaimFigures, size: usize) -> fmt::Result {
    let ClaimFigures { window, lease_seconds, confirmed, settled_per_second: rate, .. } = claims;
    writeln!(f, "  settled       {rate:>12.0} /s  {:>9.1} MB/s", rate * size as f64 / 1e6)?;
    if let Some(latency) = &claims.settle_latency {
        let until = if *confirmed { "confirmed" } else { "sent, not confirmed" };
        writeln!(f, "  claim to ack  {latency} ({until})")?;
    }
    writeln!(f, "  claim window  {window} messages of each worker, for {lease_seconds} s")
}

impl fmt::Display for Fairness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slowest, fastest, ratio } = self;
        write!(f, "slowest {slowest} messages, fastest {fastest}")?;
        ratio.map_or(Ok(()), |ratio| write!(f, " ({ratio:.2} ×)"))
    }
}

fn write_stage(f: &mut fmt::Formatter<'_>, page: &StagePage) -> fmt::Result {
    let unit = Stage::find(&page.stage).map_or(Unit::Nanoseconds, Stage::unit);
    let show = |value: u64| if unit == Unit::Nanoseconds { time(value) } else { value.to_string() };
    let [p50, p99, max] = [page.summary.p50, page.summary.p99, page.summary.max].map(show);
    writeln!(
        f,
        "  {:<16} p50 {p50:>8}  p99 {p99:>8}  max {max:>8}  {}",
        escaped(&page.stage),
        escaped(&page.what)
    )
}

/// Writes the runs of a sweep, one in a line.
fn write_steps(f: &mut fmt::Formatter<'_>, steps: &[RunResult]) -> fmt::Result {
    let head = ["connections", "messages/s", "p50", "p99", "p99.9", "slowest", "fastest", "ratio"];
    let line = |f: &mut fmt::Formatter<'_>, cells: [String; 8]| {
        let cells = cells.map(|cell| format!("{cell:>11}"));
        writeln!(f, "{}", cells.join(" "))
    };
    line(f, head.map(str::to_owned))?;
    for RunResult { figures, .. } in steps {
        let missing = || "–".to_owned();
        let latency = |value: &dyn Fn(&Summary) -> u64| {
            figures.latency().map_or_else(missing, |latency| time(value(latency)))
        };
        let fairness = figures.producer_fairness;
        let cells = [
            figures.producers.to_string(),
            format!("{:.0}", figures.throughput()),
            latency(&|latency| latency.p50),
            latency(&|latency| latency.p99),
            latency(&|latency| latency.p999),
            fairness.map_or_else(missing, |fairness| fairness.slowest.to_string()),
            fairness.map_or_else(missing, |fairness| fairness.fastest.to_string()),
            fairness
                .and_then(|fairness| fairness.ratio)
                .map_or_else(missing, |ratio| format!("{ratio:.2} ×")),
        ];
        line(f, cells)?;
    }
    Ok(())
}

/// Returns the lowest, the median and the highest of some numbers.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(0), at(values.len().saturating_sub(1) / 2), at(values.len().saturating_sub(1)))
}

impl fmt::Display for ResultFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, durability) = (escaped(&self.system_version), escaped(&self.durability));
        writeln!(f, "{} {version}: an acknowledged message is {durability}", self.system)?;
        for run in &self.runs {
            write!(f, "{}", run.figures)?;
        }
        let of = |value: &dyn Fn(&Figures) -> f64| {
            spread(self.runs.iter().map(|run| value(&run.figures)).collect())
        };
        if let Some(steps) = self.steps() {
            write_steps(f, steps)?;
        } else if self.knee.is_none() && self.runs.len() > 1 {
            let (least, middle, most) = of(&Figures::throughput);
            writeln!(
                f,
                "{} runs: {least:.0}, {middle:.0}, {most:.0} /s (lowest, median, highest)",
                self.runs.len()
            )?;
            let (least, middle, most) = of(&|run| run.latency().map_or(0.0, |latency| latency.p99 as f64));
            let [least, middle, most] = [least, middle, most].map(|nanos| time(nanos as u64));
            writeln!(f, "  p99 {least}, {middle}, {most}")?;
        }
        if let Some(run) = self.chosen().filter(|run| !run.stages.is_empty()) {
            writeln!(f, "stages in the server, for the run that represents the result:")?;
            run.stages.iter().try_for_each(|stage| write_stage(f, stage))?;
        }
        if let Some(Knee { p99_max, rate, failed }) = self.knee {
            let bound = time(p99_max);
            match (rate, failed) {
                (Some(rate), Some(failed)) => {
                    writeln!(f, "knee: p99 stays under {bound} at {rate:.0} /s, and not at {failed:.0} /s")
                }
                (Some(rate), None) => {
                    writeln!(f, "knee: p99 stays under {bound} at {rate:.0} /s, the highest rate tried")
                }
                (None, _) => writeln!(f, "knee: p99 stayed under {bound} at none of the rates tried"),
            }?;
        }
        Ok(())
    }
}
