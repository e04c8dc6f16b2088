//! Additional connections that are only held open: idle ones, and stalled readers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::progress::Progress;
use crate::client::session::{ConsumeOptions, Consumer, Renewable};
use crate::client::{Application, ClientError, Next, Wire, open, run_with_buffer};

/// The size of a read buffer, in bytes. Small, because there are many such connections and little data.
const READ_BYTES: usize = 512;

/// The credit of a stalled reader, in messages.
const EVERYTHING: u64 = 1 << 62;

/// How often a connection checks whether the load is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The kind of a held connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Consumes from the end of its own queue, which stays empty, and answers pings.
    Idle,
    /// Grants credit for every message and reads nothing.
    Stalled,
}

struct HeldConnection {
    queue: String,
    kind: Held,
    progress: Arc<Progress>,
    consumer: Option<Consumer>,
    /// `is_ready`: the setup is answered. `stays`: the connection was seen to be ready, and now stays open.
    is_ready: bool,
    stays: bool,
    /// How long to stay open if there is no load.
    until: Option<Instant>,
}

/// Opens a held connection. Returns the time from the start of connecting to the answered setup. Stays open
/// until the load has ended, and no shorter than `until`.
pub(super) async fn hold(
    plan: Arc<Plan>,
    number: u32,
    kind: Held,
    progress: Arc<Progress>,
    until: Option<Instant>,
) -> Result<Duration, ClientError> {
    let began = Instant::now();
    let (mut connection, mut wire) = open(&plan.target()?).await?;
    // An idle connection uses its own queue, so that messages which the server may send without credit do not
    // come from the load.
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
    // Ends once the setup is answered.
    run_with_buffer(&mut connection, &mut wire, &mut held, &mut buffer).await?;
    progress.learn(connection.security());
    held.stays = true;
    let took = began.elapsed();
    progress.held_ready.fetch_add(1, Ordering::AcqRel);
    match kind {
        Held::Idle => run_with_buffer(&mut connection, &mut wire, &mut held, &mut buffer).await?,
        Held::Stalled => {
            while !held.is_over(Instant::now()) {
                glommio::timer::sleep(LOOK_EVERY).await;
            }
        }
    }
    connection.close().await;
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

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.consumer.as_mut().map(|consumer| consumer as &mut dyn Renewable)
    }
}
