//! NATS JetStream: one stream per queue, over the server's WebSocket port. Each message is published and
//! acknowledged on its own. A queue of workers is a stream with work-queue retention, and one durable consumer that all
//! workers share.

use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::pull::{Config as PullConfig, OrderedConfig};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context as JetStream};
use bytes::Bytes;
use futures_lite::StreamExt;
use futures_lite::future::or;
use tokio::task::JoinSet;

use super::super::claiming::{Group, Worked};
use super::super::pacer::{Pace, Room};
use super::super::plan::{About, Mode, Plan};
use super::super::producer::Produced;
use super::{Consumed, Failed, Job, LOOK_EVERY};

/// How many messages a producer may have in flight by default, and at most. The client's context allows as
/// many.
const IN_FLIGHT: u64 = 4_000;

/// Shorter waits are slept in slices, because the runtime's timers tick in milliseconds. Answers are polled
/// after each slice.
const SHORT: Duration = Duration::from_millis(2);
/// The length of a slice.
const SLICE: Duration = Duration::from_micros(100);

/// How many bytes a stream keeps. The oldest messages are dropped.
const STREAM_BYTES: i64 = 4 << 30;

/// Creates a runtime with one worker thread, for the client's socket. The thread of the connection sleeps
/// between two looks.
fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

async fn connect(plan: &Plan) -> Result<(async_nats::Client, JetStream), Failed> {
    let mut options = ConnectOptions::new();
    if let Some(trust) = &plan.trust {
        options = options.tls_client_config(trust.config().as_ref().clone());
    }
    let client = options.connect(&plan.url).await?;
    let context =
        jetstream::ContextBuilder::new().max_ack_inflight(IN_FLIGHT as usize + 1).build(client.clone());
    Ok((client, context))
}

pub(super) fn prepare(plan: &Plan, queues: &[String]) -> Result<About, Failed> {
    let most = plan.in_flight.unwrap_or(0).max(plan.batch as u64);
    if most > IN_FLIGHT {
        return Err(format!("--in-flight and --batch: at most {IN_FLIGHT} against NATS").into());
    }
    runtime()?.block_on(async {
        let (client, context) = connect(plan).await?;
        let mut kept = String::new();
        for queue in queues {
            let retention = match plan.mode {
                Mode::Claim => RetentionPolicy::WorkQueue,
                _ => RetentionPolicy::Limits,
            };
            let config = Config {
                name: queue.clone(),
                retention,
                subjects: vec![format!("{queue}.>")],
                storage: StorageType::File,
                // What no worker has had must not be dropped.
                discard: if plan.mode == Mode::Claim { DiscardPolicy::New } else { DiscardPolicy::Old },
                max_bytes: STREAM_BYTES,
                num_replicas: 1,
                ..Config::default()
            };
            let stream = context.get_or_create_stream(config).await?;
            // The stream may have existed before, with other settings.
            let Config { storage, num_replicas, retention: found, .. } = &stream.cached_info().config;
            if *found != retention {
                return Err(format!(
                    "the stream {queue} has {found:?} retention instead of {retention:?}: choose another --queue"
                )
                .into());
            }
            let place = if *storage == StorageType::File { "a file" } else { "memory" };
            kept = format!("in {place} of {num_replicas} replicas");
            if plan.mode == Mode::Claim {
                share_consumer(plan, &stream).await?;
            }
        }
        let info = client.server_info();
        Ok(About {
            version: info.version,
            durability: format!(
                "{kept} before it is acknowledged, synced at every sync_interval of the server (2 minutes by default)"
            ),
        })
    })
}

type Ack = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

pub(super) fn produce(job: &mut Job) -> Result<Produced, Failed> {
    let plan = job.part.plan.clone();
    runtime()?.block_on(async {
        let (_client, context) = connect(&plan).await?;
        let in_flight = plan.in_flight.unwrap_or(IN_FLIGHT);
        let mut produced = Produced::default();
        if !job.begin() {
            return Ok(produced);
        }
        let mut pacer = job.pacer();
        let mut waiting: VecDeque<(u64, Ack)> = VecDeque::new();
        let mut payload = vec![b'.'; plan.size];
        // Each producer and key has its own subject. The stream keeps the order of all of them.
        let subjects: Vec<String> =
            (0..plan.keys.max(1)).map(|key| format!("{}.{}.{key}", job.queue, job.part.number)).collect();
        loop {
            let now = Instant::now();
            pacer.look();
            let wait = loop {
                match pacer.next(now, Room::of(in_flight, waiting.len() as u64)) {
                    Pace::Send { intended, count } => {
                        let intended_ns = plan.clock_ns(intended);
                        for number in pacer.sequence()..pacer.sequence() + count {
                            let (stamp, key) = plan.stamp(job.part.number, number, intended_ns);
                            stamp.write(&mut payload);
                            let bytes = Bytes::copy_from_slice(&payload);
                            let ack = context.publish(subjects[key].clone(), bytes).await?;
                            waiting.push_back((intended_ns, ack.into_future()));
                        }
                        pacer.sent(count);
                    }
                    Pace::At(at) => break Some(at.saturating_duration_since(Instant::now())),
                    Pace::Wait => break Some(LOOK_EVERY),
                    Pace::Over => break None,
                }
            };
            pacer.publish();
            let Some(wait) = wait else { break };
            settle(job, &mut waiting, &mut produced, wait).await;
        }
        produced.unsent = pacer.give_up(Instant::now(), &mut job.meter);
        while let Some((intended_ns, ack)) = waiting.pop_front() {
            let failure = ack.await.err().map(|error| error.to_string());
            job.answered(&mut produced, intended_ns, Instant::now(), failure);
        }
        Ok(produced)
    })
}

/// Counts the acknowledgements that have arrived, in order. Waits for some of them, but not longer than
/// `wait`.
async fn settle(job: &mut Job, waiting: &mut VecDeque<(u64, Ack)>, produced: &mut Produced, wait: Duration) {
    let some = std::future::poll_fn(|cx: &mut Context<'_>| {
        let mut any = false;
        while let Some((intended_ns, ack)) = waiting.front_mut() {
            let Poll::Ready(result) = ack.as_mut().poll(cx) else { break };
            let failure = result.err().map(|error| error.to_string());
            job.answered(produced, *intended_ns, Instant::now(), failure);
            waiting.pop_front();
            any = true;
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    });
    if wait < SHORT {
        // This thread has nothing else to do.
        std::thread::sleep(wait.min(SLICE));
        tokio::task::yield_now().await;
        // No acknowledgement may have arrived, which is fine.
        let _ = futures_lite::future::poll_once(some).await;
    } else {
        // A timeout is fine, and too early is better than too late.
        let _ = tokio::time::timeout(wait.min(LOOK_EVERY) - Duration::from_millis(1), some).await;
    }
}

pub(super) fn consume(job: &mut Job) -> Result<Consumed, Failed> {
    let plan = job.part.plan.clone();
    runtime()?.block_on(async {
        let (_client, context) = connect(&plan).await?;
        let stream = context.get_stream(&job.queue).await?;
        let policy = if plan.mode == Mode::Both { DeliverPolicy::New } else { DeliverPolicy::All };
        let consumer = stream
            .create_consumer(OrderedConfig { deliver_policy: policy, ..OrderedConfig::default() })
            .await?;
        // With producers, the consumer must be ready before they begin. Without, it asks for messages after the
        // start.
        let begins_first = plan.mode == Mode::Consume;
        let mut begun = begins_first && job.begin();
        let mut messages = consumer.messages().await?;
        begun |= !begins_first && job.begin();
        let mut reading = job.reading();
        if !begun {
            return Ok(reading.consumed(None));
        }
        while !reading.is_over(Instant::now()) {
            let first = match tokio::time::timeout(LOOK_EVERY, messages.next()).await {
                Ok(Some(first)) => first,
                Ok(None) => return Err("the stream of messages has ended".into()),
                Err(_) => continue,
            };
            let mut taken = vec![first?];
            while taken.len() < TAKEN_AT_ONCE
                && let Some(Some(next)) = futures_lite::future::poll_once(messages.next()).await
            {
                taken.push(next?);
            }
            reading.begin(Instant::now(), &mut job.meter);
            taken.iter().for_each(|message| reading.handle(&message.payload, &mut job.meter));
            reading.end(&mut job.meter);
        }
        Ok(reading.consumed(None))
    })
}

/// How many messages a consumer takes before it checks the time.
const TAKEN_AT_ONCE: usize = 500;

/// The name of the consumer that all workers of a stream share.
const WORKERS: &str = "workers";

/// Creates the consumer that all workers share. An earlier run may have left one with other settings.
async fn share_consumer(plan: &Plan, stream: &Stream) -> Result<(), Failed> {
    // Fails if there is none.
    let _ = stream.delete_consumer(WORKERS).await;
    let most = plan.claim_window.saturating_mul(plan.consumers().into());
    let config = PullConfig {
        durable_name: Some(WORKERS.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(plan.lease.into()),
        max_ack_pending: i64::try_from(most)?,
        ..PullConfig::default()
    };
    stream.create_consumer(config).await?;
    Ok(())
}

/// The acknowledgements of a group that are not confirmed.
type Confirming = JoinSet<Result<(), async_nats::Error>>;

/// Waits for the next acknowledgements of the oldest group. Never ends if there is none.
async fn confirmed(pending: &mut VecDeque<(Group, Confirming)>) -> Result<(), Failed> {
    match pending.front_mut() {
        Some((_, acks)) => match acks.join_next().await {
            Some(ack) => ack?,
            None => Ok(()),
        },
        None => std::future::pending().await,
    }
}

pub(super) fn claim(job: &mut Job) -> Result<Worked, Failed> {
    let plan = job.part.plan.clone();
    runtime()?.block_on(async {
        let (client, context) = connect(&plan).await?;
        let stream = context.get_stream(&job.queue).await?;
        let consumer: Consumer<PullConfig> = stream.get_consumer(WORKERS).await?;
        let batch = usize::try_from(plan.claim_window)?;
        let mut messages = consumer.stream().max_messages_per_batch(batch).messages().await?;
        let has_begun = job.begin();
        let mut claiming = job.claiming();
        if !has_begun {
            return Ok(claiming.worked(None));
        }
        let mut pending: VecDeque<(Group, Confirming)> = VecDeque::new();
        let mut number = 0;
        while !claiming.is_over(Instant::now()) {
            let next = async { Ok(Some(messages.next().await)) };
            let ack = async { confirmed(&mut pending).await.map(|()| None) };
            let first = match tokio::time::timeout(LOOK_EVERY, or(ack, next)).await {
                Ok(first) => first?,
                Err(_) => None,
            };
            let now = Instant::now();
            while let Some((group, _)) = pending.pop_front_if(|(_, acks)| acks.is_empty()) {
                claiming.settle(now, &group, &mut job.meter);
            }
            let mut taken = match first {
                Some(Some(first)) => vec![first?],
                Some(None) => return Err("the stream of messages has ended".into()),
                None => continue,
            };
            while taken.len() < TAKEN_AT_ONCE
                && let Some(Some(next)) = futures_lite::future::poll_once(messages.next()).await
            {
                taken.push(next?);
            }
            claiming.begin(now, &mut job.meter);
            taken.retain(|message| {
                number += 1;
                claiming.handle(number, &message.payload, &mut job.meter)
            });
            let group = claiming.end(&mut job.meter);
            match group {
                Some(group) if plan.double_ack => {
                    let acks = taken.into_iter().map(|message| async move { message.double_ack().await });
                    pending.push_back((group, acks.collect()));
                }
                group => {
                    for message in &taken {
                        message.ack().await?;
                    }
                    if let Some(group) = group {
                        claiming.settle(Instant::now(), &group, &mut job.meter);
                    }
                }
            }
        }
        // Acknowledgements without a confirmation may still be on their way.
        client.flush().await?;
        Ok(claiming.worked(None))
    })
}
