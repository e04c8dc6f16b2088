//! Connections beside the load that are only there: idle ones, and readers that have stalled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::progress::Progress;
use crate::client::session::{ConsumeOptions, Consumer};
use crate::client::{Application, ClientError, Next, Wire, connect, run_with_buffer};

/// What one reads at once, bytes: there are many, and little comes.
const READ_BYTES: usize = 512;

/// Messages that a stalled reader gives credit for.
const EVERYTHING: u64 = 1 << 62;

/// How often one looks whether the load is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Consumes from the end of a queue of its own, in which nothing comes; answers pings.
    Idle,
    /// Gives credit for all there is and reads nothing of it.
    Stalled,
}

struct HeldConnection {
    queue: String,
    kind: Held,
    progress: Arc<Progress>,
    consumer: Option<Consumer>,
    /// Its setup is answered; and it was seen to be, so that it stays now.
    is_ready: bool,
    stays: bool,
    /// Where there is no load, until when it stays.
    until: Option<Instant>,
}

/// Opens one; returns how long that took, from the first byte to the answered setup. It stays until everyone else has ended, or `until`.
pub(super) async fn hold(
    plan: Arc<Plan>,
    number: u32,
    kind: Held,
    progress: Arc<Progress>,
    until: Option<Instant>,
) -> Result<Duration, ClientError> {
    let began = Instant::now();
    let target = plan.target()?;
    let mut stream = connect(&target).await?;
    let mut wire = Wire::start(&target);
    // What a server may send without credit is none of the load's messages.
    let queue = if kind == Held::Idle { format!("{}-idle", plan.queue) } else { plan.queue_of(number) };
    let mut held = HeldConnection {
        queue,
        kind,
        progress: progress.clone(),
        consumer: None,
        is_ready: false,
        stays: false,
        until,
    };
    let mut buffer = [0; READ_BYTES];
    // Until its setup is answered.
    run_with_buffer(&mut stream, &mut wire, &mut held, &mut buffer).await?;
    held.stays = true;
    let took = began.elapsed();
    progress.held_ready.fetch_add(1, Ordering::AcqRel);
    match kind {
        Held::Idle => run_with_buffer(&mut stream, &mut wire, &mut held, &mut buffer).await?,
        Held::Stalled => {
            while !held.is_over(Instant::now()) {
                glommio::timer::sleep(LOOK_EVERY).await;
            }
        }
    }
    Ok(took)
}

impl HeldConnection {
    fn is_over(&self, now: Instant) -> bool {
        let is_alone = self.until.is_none_or(|until| now >= until);
        self.progress.is_stopping() || is_alone && self.progress.running.load(Ordering::Acquire) == 0
    }
}

impl Application for HeldConnection {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        if let Some(consumer) = &mut self.consumer {
            self.is_ready = true;
            consumer.handle_data(piece, fin, |_| {})?;
            if let Some(failure) = consumer.failure() {
                return Err(ClientError::Broken(failure.to_string()));
            }
        }
        Ok(())
    }

    fn poll(&mut self, _cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        if self.consumer.is_none() {
            let options = ConsumeOptions {
                queue: self.queue.clone(),
                from: "latest".into(),
                echo: true,
                window: if self.kind == Held::Stalled { EVERYTHING } else { 0 },
                count: None,
            };
            self.consumer = Some(Consumer::start(&options, sender, out));
        }
        let now = Instant::now();
        Ok(match self.stays {
            false if self.is_ready => Next::Done,
            false => Next::Wait,
            true if self.is_over(now) => Next::Done,
            true => Next::At(now + LOOK_EVERY),
        })
    }
}
