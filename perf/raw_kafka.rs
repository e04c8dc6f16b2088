//! Measures librdkafka without Millstream: a minimal loop around `rd_kafka_produce_batch`, and a consumer, as
//! the baseline of `perf/kafka-ratios`.
//!
//! Without `--rate` it keeps a window of messages in flight and counts delivery reports. With `--rate` it
//! produces on a schedule, consumes the same messages, and measures from the scheduled time to the receipt.
//! Payloads look like those of `millstream bench`. Prints one line of JSON.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{CString, c_void};
use std::ptr;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use rdkafka::bindings as rd;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaType;

/// Produces into one partition of an existing topic
#[derive(Clone, Debug, Parser)]
struct Args {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 0)]
    partition: i32,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 100)]
    size: usize,
    #[arg(long, default_value = "lz4")]
    compression: String,
    /// The producer's `linger.ms`
    #[arg(long, default_value = "2")]
    linger: String,
    /// The producer's `batch.size`, in bytes
    #[arg(long, default_value = "1048576")]
    batch: String,
    /// Messages in flight
    #[arg(long, default_value_t = 200_000)]
    window: u64,
    /// Messages per second, sent on a schedule
    #[arg(long)]
    rate: Option<f64>,
}

/// Messages per call.
const BATCH: usize = 100;
const WARM_UP: Duration = Duration::from_secs(2);
const OK: rd::rd_kafka_resp_err_t = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

fn client(args: &Args, kind: RDKafkaType, more: &[(&str, &str)]) -> Client {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.brokers);
    more.iter().for_each(|(key, value)| {
        config.set(*key, *value);
    });
    let native = config.create_native_config().expect("these properties are known");
    // SAFETY: the configuration is live and no client has taken it.
    unsafe { rd::rd_kafka_conf_set_events(native.ptr(), rd::RD_KAFKA_EVENT_DR | rd::RD_KAFKA_EVENT_ERROR) };
    Client::new(&config, native, kind, DefaultClientContext).expect("a client")
}

fn main() {
    let args = Args::parse();
    let began = Instant::now();
    let consumer = args.rate.map(|_| {
        let (args, (ready, is_ready)) = (args.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || consume(&args, began, &ready));
        is_ready.recv().expect("the consumer starts");
        thread
    });
    let (count, elapsed, cpu, failed) = produce(&args, began);
    let mut line = format!(
        "\"messages_per_second\":{:.0},\"cpu_seconds_per_million\":{:.3},\"failed\":{failed}",
        count as f64 / elapsed,
        cpu / (count as f64 / 1e6)
    );
    if let Some(consumer) = consumer {
        let latency = consumer.join().expect("the consumer ends");
        let at = |quantile| latency.value_at_quantile(quantile) / 1000;
        line += &format!(
            ",\"received\":{},\"p50_us\":{},\"p99_us\":{},\"p999_us\":{}",
            latency.len(),
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
    println!("{{{line}}}");
    // Messages still in flight do not matter any more.
    std::process::exit(i32::from(failed > 0));
}

/// Returns the messages delivered in the measured time, its length and the process's CPU time in seconds, and
/// how many messages failed.
fn produce(args: &Args, epoch: Instant) -> (u64, f64, f64, u64) {
    let properties = [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("linger.ms", &args.linger),
        ("batch.size", &args.batch),
        ("batch.num.messages", "1000000"),
        ("message.max.bytes", "1114112"),
        ("compression.type", &args.compression),
        ("queue.buffering.max.messages", "2000000"),
        ("queue.buffering.max.kbytes", "2147483647"),
    ];
    let client = client(args, RDKafkaType::RD_KAFKA_PRODUCER, &properties);
    let name = CString::new(&args.topic[..]).expect("a topic's name");
    // SAFETY: the client lives until the process ends.
    let (topic, queue) = unsafe {
        let topic = rd::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut());
        (topic, rd::rd_kafka_queue_get_main(client.native_ptr()))
    };
    let mut payloads = vec![b'.'; BATCH * args.size];
    let (mut sent, mut delivered, mut failed) = (0u64, 0u64, 0u64);
    let started = Instant::now();
    let mut measured = None;
    let (mut base, mut cpu) = (0, 0.0);
    loop {
        let now = Instant::now();
        if measured.is_none() && now >= started + WARM_UP {
            (measured, base, cpu) = (Some(now), delivered, cpu_seconds());
        }
        if measured.is_some_and(|since| (now - since).as_secs_f64() >= args.seconds) {
            break;
        }
        let due = |sent: u64| match args.rate {
            Some(rate) => started + Duration::from_secs_f64(sent as f64 / rate),
            None => now,
        };
        while sent - delivered - failed < args.window && due(sent) <= now {
            let intended = due(sent).duration_since(epoch).as_nanos() as u64;
            let mut messages = Vec::with_capacity(BATCH);
            for (index, payload) in payloads.chunks_exact_mut(args.size).enumerate() {
                payload[8..16].copy_from_slice(&(sent + index as u64).to_le_bytes());
                payload[16..24].copy_from_slice(&intended.to_le_bytes());
                messages.push(rd::rd_kafka_message_t {
                    err: OK,
                    rkt: ptr::null_mut(),
                    partition: args.partition,
                    payload: payload.as_mut_ptr().cast::<c_void>(),
                    len: payload.len(),
                    key: ptr::null_mut(),
                    key_len: 0,
                    offset: 0,
                    _private: ptr::null_mut(),
                });
            }
            let copy = rd::RD_KAFKA_MSG_F_COPY;
            // SAFETY: the messages are copied before this returns.
            let taken = unsafe {
                rd::rd_kafka_produce_batch(topic, args.partition, copy, messages.as_mut_ptr(), BATCH as i32)
            };
            sent += taken as u64;
        }
        let mut wait_ms = 1;
        // SAFETY: an event and its messages are ours until the event is destroyed.
        while let Some(event) = ptr::NonNull::new(unsafe { rd::rd_kafka_queue_poll(queue, wait_ms) }) {
            wait_ms = 0;
            let mut messages = [ptr::null(); 256];
            // SAFETY: as above.
            unsafe {
                loop {
                    let count = rd::rd_kafka_event_message_array(
                        event.as_ptr(),
                        messages.as_mut_ptr(),
                        messages.len(),
                    );
                    if count == 0 {
                        break;
                    }
                    let good = messages[..count].iter().filter(|message| (***message).err == OK).count();
                    delivered += good as u64;
                    failed += (count - good) as u64;
                }
                rd::rd_kafka_event_destroy(event.as_ptr());
            }
        }
    }
    let elapsed = measured.map_or(0.0, |since| since.elapsed().as_secs_f64());
    let result = (delivered - base, elapsed, cpu_seconds() - cpu, failed);
    std::mem::forget(client);
    result
}

/// Returns the latencies, in nanoseconds, of messages received in the measured time.
fn consume(args: &Args, epoch: Instant, ready: &std::sync::mpsc::Sender<()>) -> Histogram<u64> {
    let properties = [
        ("fetch.wait.max.ms", "500"),
        ("queued.max.messages.kbytes", "4096"),
        ("fetch.queue.backoff.ms", "10"),
    ];
    let client = client(args, RDKafkaType::RD_KAFKA_CONSUMER, &properties);
    let name = CString::new(&args.topic[..]).expect("a topic's name");
    let (mut low, mut end) = (0, 0);
    // SAFETY: the client lives until the process ends; the watermarks are written before the call returns.
    let queue = unsafe {
        let topic = rd::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut());
        let queue = rd::rd_kafka_queue_new(client.native_ptr());
        let code = rd::rd_kafka_query_watermark_offsets(
            client.native_ptr(),
            name.as_ptr(),
            args.partition,
            &mut low,
            &mut end,
            10_000,
        );
        assert_eq!(code, OK);
        assert_eq!(rd::rd_kafka_consume_start_queue(topic, args.partition, end, queue), 0);
        queue
    };
    ready.send(()).expect("the producer waits");
    let mut latency = Histogram::new(3).expect("three digits");
    let (from, until) =
        (Instant::now() + WARM_UP, Instant::now() + WARM_UP + Duration::from_secs_f64(args.seconds));
    let mut messages = [ptr::null_mut(); 1024];
    while Instant::now() < until {
        // SAFETY: the array has the given size, and messages are ours until they are destroyed.
        unsafe {
            let count = rd::rd_kafka_consume_batch_queue(queue, 1, messages.as_mut_ptr(), messages.len());
            let now = Instant::now();
            let now_ns = now.duration_since(epoch).as_nanos() as u64;
            for message in &messages[..usize::try_from(count).unwrap_or(0)] {
                if (**message).err == OK && (**message).len >= 24 && now >= from {
                    let intended =
                        (**message).payload.cast::<u8>().add(16).cast::<[u8; 8]>().read_unaligned();
                    latency
                        .record(now_ns.saturating_sub(u64::from_le_bytes(intended)).max(1))
                        .expect("the histogram resizes itself");
                }
                rd::rd_kafka_message_destroy(*message);
            }
        }
    }
    std::mem::forget(client);
    latency
}

/// Returns the user and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    // SAFETY: getrusage fills the structure that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
