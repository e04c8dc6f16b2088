//! Searches for the knee: the highest rate at which the p99 latency stays within a bound.

use super::plan::Plan;
use super::result::{Knee, RunResult};
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
