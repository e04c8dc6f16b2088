//! What librdkafka does without Millstream: the least loop around `rd_kafka_produce_batch`, to compare with (`perf/kafka-ratios`).
//!
//! Keeps a window of messages outstanding, counts delivery reports, and prints one line of JSON: messages a second, CPU seconds
//! for each million messages.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{CString, c_void};
use std::ptr;
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::bindings as rd;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaType;

/// Produces into one partition of a topic that is there.
#[derive(Debug, Parser)]
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
    /// linger.ms
    #[arg(long, default_value = "2")]
    linger: String,
    /// batch.size
    #[arg(long, default_value = "1048576")]
    batch: String,
    /// Messages outstanding
    #[arg(long, default_value_t = 200_000)]
    window: usize,
}

const BATCH: usize = 100;

fn main() {
    let args = Args::parse();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &args.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", &args.linger)
        .set("batch.size", &args.batch)
        .set("batch.num.messages", "1000000")
        .set("message.max.bytes", "1114112")
        .set("compression.type", &args.compression)
        .set("queue.buffering.max.messages", "2000000")
        .set("queue.buffering.max.kbytes", "2147483647");
    let native = config.create_native_config().expect("these properties are known");
    // SAFETY: the configuration is live and no client has taken it.
    unsafe { rd::rd_kafka_conf_set_events(native.ptr(), rd::RD_KAFKA_EVENT_DR | rd::RD_KAFKA_EVENT_ERROR) };
    let client =
        Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext).expect("a client");
    let topic = CString::new(args.topic).expect("a topic's name");
    // SAFETY: the client lives until the end.
    let (topic, queue) = unsafe {
        let topic = rd::rd_kafka_topic_new(client.native_ptr(), topic.as_ptr(), ptr::null_mut());
        (topic, rd::rd_kafka_queue_get_main(client.native_ptr()))
    };
    // Each message differs in its first bytes, as those of `millstream bench` do.
    let payload: Vec<u8> = (0..args.size).map(|at| b'a' + (at % 26) as u8).collect();
    let mut payloads: Vec<Vec<u8>> = vec![payload; BATCH];
    let (mut sent, mut delivered, mut failed) = (0u64, 0u64, 0u64);
    let poll = |delivered: &mut u64, failed: &mut u64, wait_ms| {
        // SAFETY: the event is ours until it is destroyed, and its messages with it.
        unsafe {
            let event = rd::rd_kafka_queue_poll(queue, wait_ms);
            if event.is_null() {
                return false;
            }
            let mut messages = [ptr::null(); 256];
            loop {
                let count = rd::rd_kafka_event_message_array(event, messages.as_mut_ptr(), messages.len());
                if count == 0 {
                    break;
                }
                for message in &messages[..count] {
                    match (**message).err {
                        rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => *delivered += 1,
                        _ => *failed += 1,
                    }
                }
            }
            rd::rd_kafka_event_destroy(event);
            true
        }
    };
    let warm_until = Instant::now() + Duration::from_secs(2);
    let mut began = None;
    let (mut base, mut cpu) = (0, 0.0);
    loop {
        let now = Instant::now();
        if began.is_none() && now >= warm_until {
            (began, base, cpu) = (Some(now), delivered, cpu_seconds());
        }
        if began.is_some_and(|began| (now - began).as_secs_f64() >= args.seconds) {
            break;
        }
        while sent - delivered - failed < args.window as u64 {
            for (index, payload) in payloads.iter_mut().enumerate() {
                let stamp = (sent + index as u64).to_le_bytes();
                let length = stamp.len().min(payload.len());
                payload[..length].copy_from_slice(&stamp[..length]);
            }
            let mut messages: Vec<rd::rd_kafka_message_t> = payloads
                .iter()
                .map(|payload| rd::rd_kafka_message_t {
                    err: rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                    rkt: ptr::null_mut(),
                    partition: args.partition,
                    payload: payload.as_ptr().cast_mut().cast::<c_void>(),
                    len: payload.len(),
                    key: ptr::null_mut(),
                    key_len: 0,
                    offset: 0,
                    _private: ptr::null_mut(),
                })
                .collect();
            // SAFETY: the messages are copied before this returns.
            let taken = unsafe {
                rd::rd_kafka_produce_batch(
                    topic,
                    args.partition,
                    rd::RD_KAFKA_MSG_F_COPY,
                    messages.as_mut_ptr(),
                    BATCH as i32,
                )
            };
            sent += taken as u64;
        }
        if !poll(&mut delivered, &mut failed, 1) {
            continue;
        }
        while poll(&mut delivered, &mut failed, 0) {}
    }
    let elapsed = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
    let count = delivered - base;
    let cpu = cpu_seconds() - cpu;
    println!(
        "{{\"messages_per_second\":{:.0},\"cpu_seconds_per_million\":{:.3},\"failed\":{failed}}}",
        count as f64 / elapsed,
        cpu / (count as f64 / 1e6)
    );
    // What is outstanding means nothing any more.
    std::process::exit(i32::from(failed > 0));
}

/// User and system time of this process.
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
