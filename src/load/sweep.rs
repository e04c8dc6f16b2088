//! Series of runs that differ in one parameter: the rate, to find the knee, or the number of connections.
//!
//! The knee is the highest rate at which the p99 latency stays within a bound.

use std::str::FromStr;

use super::plan::Plan;
use super::result::{Knee, RunResult, Sweep};
use crate::client::ClientError;
use crate::process::terminal::say;

/// The first rate, as a share of the throughput of a closed loop.
const FIRST: f64 = 0.1;
/// The factor from one rate to the next, until a rate fails.
const STEP: f64 = 1.6;
/// How many rates to try between the highest that kept the bound and the lowest that did not.
const HALVINGS: u32 = 4;
/// The largest number of increasing rates to try.
const STEPS_MAX: u32 = 12;

/// Returns whether a run kept the bound.
fn keeps(result: &RunResult, p99_max: u64) -> bool {
    let figures = &result.figures;
    let latency = if figures.consumers > 0 { &figures.end_to_end_latency } else { &figures.produce_latency };
    let is_quick = latency.as_ref().is_some_and(|latency| latency.p99 <= p99_max);
    figures.is_sound() && figures.is_sustained() && is_quick
}

/// Returns whether a run kept the bound, and stores the run. An error counts as not keeping it: the server
/// ended a connection at this rate.
fn kept(result: Result<RunResult, ClientError>, p99_max: u64, runs: &mut Vec<RunResult>) -> bool {
    match result {
        Ok(result) => {
            let kept = keeps(&result, p99_max);
            runs.push(result);
            kept
        }
        Err(error) => {
            say(format_args!("millstream: {error}"));
            false
        }
    }
}

/// Searches for the knee by calling `run`. The first run is a closed loop, for the scale. Then rates increase
/// until one fails, and the search narrows the interval down. Calls `each` after every run.
pub fn find_knee(
    plan: &Plan,
    p99_max: u64,
    run: impl Fn(Plan) -> Result<RunResult, ClientError>,
    mut each: impl FnMut(&RunResult),
) -> Result<(Vec<RunResult>, Knee), ClientError> {
    let mut at = |rate: Option<f64>| {
        let result = run(Plan { rate, ..plan.again() })?;
        each(&result);
        Ok::<_, ClientError>(result)
    };
    let closed = at(None)?;
    let most = closed.figures.acknowledged_per_second;
    if most <= 0.0 && !plan.interrupt.is_raised() {
        return Err(ClientError::Broken(
            "the first run, without a rate, got no acknowledgements, so there is no rate to start from"
                .into(),
        ));
    }
    let mut knee = Knee { p99_max, rate: None, failed: None };
    let mut runs = vec![closed];
    let mut rate = plan.rate.unwrap_or(most * FIRST);
    for _ in 0..STEPS_MAX {
        let kept = !plan.interrupt.is_raised() && kept(at(Some(rate)), p99_max, &mut runs);
        // An interrupted run tells nothing about its rate.
        if plan.interrupt.is_raised() {
            return Ok((runs, knee));
        }
        if !kept {
            knee.failed = Some(rate);
            break;
        }
        knee.rate = Some(rate);
        rate *= STEP;
    }
    for _ in 0..HALVINGS {
        let Some(failed) = knee.failed else { break };
        // If even the first rate failed, decrease it by the same factor.
        let rate = knee.rate.map_or(failed / STEP, |kept| (kept * failed).sqrt());
        let kept = kept(at(Some(rate)), p99_max, &mut runs);
        if plan.interrupt.is_raised() {
            break;
        }
        if kept {
            knee.rate = Some(rate);
        } else {
            knee.failed = Some(rate);
        }
    }
    Ok((runs, knee))
}

/// The numbers of connections of a sweep that names none.
const CONNECTIONS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// The most connections of a run in a sweep.
const CONNECTIONS_MAX: u32 = 1_000_000;
/// The most runs of a sweep.
const SWEEP_MAX: usize = 100;

impl FromStr for Sweep {
    type Err = String;

    /// Parses `connections`, or `connections=` and a list of numbers.
    fn from_str(text: &str) -> Result<Self, String> {
        let (over, list) = text.split_once('=').map_or((text, None), |(over, list)| (over, Some(list)));
        if over != "connections" {
            return Err("only the connections can be swept: connections, or connections=1,16,1000".into());
        }
        let number = |text: &str| match text.trim().parse() {
            Ok(number @ 1..=CONNECTIONS_MAX) => Ok(number),
            _ => Err(format!("{text:?} is not a number of connections from 1 to {CONNECTIONS_MAX}")),
        };
        let connections: Vec<u32> = match list {
            None => CONNECTIONS.to_vec(),
            Some(list) => list.split(',').map(number).collect::<Result<_, String>>()?,
        };
        if connections.len() > SWEEP_MAX {
            return Err(format!("{} runs: must be at most {SWEEP_MAX}", connections.len()));
        }
        Ok(Self { connections })
    }
}

impl Sweep {
    /// Returns the largest number of connections.
    pub fn most(&self) -> u32 {
        self.connections.iter().copied().max().unwrap_or(0)
    }
}

/// Runs the plan with each number of producing connections. Calls `each` after every run. A run that fails ends
/// the sweep; its error is returned next to the runs before it.
pub fn sweep_connections(
    plan: &Plan,
    sweep: &Sweep,
    run: impl Fn(Plan) -> Result<RunResult, ClientError>,
    mut each: impl FnMut(&RunResult),
) -> (Vec<RunResult>, Option<ClientError>) {
    let mut runs = Vec::new();
    for producers in &sweep.connections {
        if plan.interrupt.is_raised() && !runs.is_empty() {
            break;
        }
        match run(Plan { producers: *producers, ..plan.again() }) {
            Ok(result) => {
                each(&result);
                runs.push(result);
            }
            Err(error) => return (runs, Some(error)),
        }
    }
    (runs, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_a_list_of_connections() {
        let parsed = |text: &str| text.parse::<Sweep>().map(|sweep| sweep.connections);
        assert_eq!(parsed("connections").unwrap(), [1, 10, 100, 1_000, 10_000]);
        assert_eq!(parsed("connections=1,16, 1000").unwrap(), [1, 16, 1_000]);
        assert_eq!("connections=16,1".parse::<Sweep>().unwrap().most(), 16);
        for (text, word) in [
            ("rate", "only the connections"),
            ("connections=", "is not a number"),
            ("connections=0", "from 1 to"),
            ("connections=1,,2", "is not a number"),
            ("connections=1000001", "1000000"),
            ("connections=1x", "1x"),
        ] {
            assert!(parsed(text).unwrap_err().contains(word), "{text}");
        }
        assert!(
            parsed(&format!("connections={}", ["1"; 101].join(","))).unwrap_err().contains("at most 100")
        );
    }
}
