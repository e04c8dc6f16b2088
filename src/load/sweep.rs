//! The knee: the highest rate at which p99 stays under a bound.

use super::plan::Plan;
use super::result::{Knee, RunResult};
use crate::client::ClientError;
use crate::process::terminal::say;

/// The first rate, as a part of what a closed loop reaches.
const FIRST: f64 = 0.1;
/// Each rate is so much above the one before, until one fails.
const STEP: f64 = 1.6;
/// Rates that are tried between the last that kept to the bound and the first that did not.
const HALVINGS: u32 = 4;
/// Rates that are tried upwards at most.
const STEPS_MAX: u32 = 12;

/// Whether a run kept to the bound.
fn keeps(result: &RunResult, p99_max: u64) -> bool {
    let figures = &result.figures;
    let latency = if figures.consumers > 0 { &figures.end_to_end_latency } else { &figures.produce_latency };
    let is_quick = latency.as_ref().is_some_and(|latency| latency.p99 <= p99_max);
    figures.is_sound() && figures.is_sustained() && is_quick
}

/// The same, and keeps the run. A server that ends a connection at some rate has not kept to the bound at it.
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

/// Finds it by what `run` measures: a closed loop for the scale, upwards until a rate fails, then between. `each` is told every run.
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
            "nothing was acknowledged without a schedule: there is no scale to search on".into(),
        ));
    }
    let mut knee = Knee { p99_max, rate: None, failed: None };
    let mut runs = vec![closed];
    let mut rate = plan.rate.unwrap_or(most * FIRST);
    for _ in 0..STEPS_MAX {
        let kept = !plan.interrupt.is_raised() && kept(at(Some(rate)), p99_max, &mut runs);
        // A run that was ended early says nothing of its rate.
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
        // Below the first rate, in the same steps.
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
