//! Measures what the machine gives without Millstream, as the baseline of `perf/overload`.
//!
//! `gaps` spins on the clock of each core and records the times that the thread did not run. `echo` measures the
//! least work for small requests: one thread returns the bytes of each request unread, in a loop around epoll. Both
//! print one line of JSON.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

/// Measures the machine
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Spin on each core, and report the gaps of more than 0.1 ms
    Gaps {
        #[arg(long, value_delimiter = ',', default_value = "0,1")]
        cores: Vec<usize>,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Echo requests of several connections, each with one request under way
    Echo {
        #[arg(long, default_value_t = 200)]
        connections: usize,
        /// Bytes of a request
        #[arg(long, default_value_t = 120)]
        size: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        #[arg(long, default_value_t = 0)]
        server_core: usize,
        #[arg(long, default_value_t = 1)]
        client_core: usize,
    },
}

/// The shortest time without running that counts as a gap.
const GAP: Duration = Duration::from_micros(100);
/// How long an echo runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// The most events that one call takes.
const EVENTS: usize = 256;

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("the core exists and is allowed");
}

/// Spins on a core. Returns the gaps.
fn spin(core: usize, seconds: Duration) -> Value {
    pin(core);
    let began = Instant::now();
    let (mut last, mut count, mut lost, mut longest) = (began, 0u64, Duration::ZERO, Duration::ZERO);
    while last - began < seconds {
        let now = Instant::now();
        let gap = now - last;
        if gap > GAP {
            count += 1;
            lost += gap;
            longest = longest.max(gap);
        }
        last = now;
    }
    // The last gap may end after the time.
    let spent = (last - began).as_secs_f64();
    json!({
        "core": core,
        "gaps_per_second": count as f64 / spent,
        "longest_ms": longest.as_secs_f64() * 1e3,
        "lost_share": lost.as_secs_f64() / spent,
    })
}

fn gaps(cores: &[usize], seconds: Duration) -> Value {
    let threads: Vec<_> =
        cores.iter().copied().map(|core| thread::spawn(move || spin(core, seconds))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Returns the CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel has schedstat");
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Creates an epoll instance that watches these sockets. An event holds the index of its socket.
fn watch(sockets: &[TcpStream]) -> OwnedFd {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    for (index, socket) in sockets.iter().enumerate() {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        epoll::add(&epoll, socket, EventData::new_u64(index as u64), EventFlags::IN).unwrap();
    }
    epoll
}

/// Waits for events, but not for long, and returns the indexes of their sockets.
fn ready(epoll: &OwnedFd, events: &mut Vec<Event>, indexes: &mut Vec<usize>) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    events.clear();
    epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(&timeout)).unwrap();
    indexes.clear();
    indexes.extend(events.iter().map(|event| event.data.u64() as usize));
}

/// Returns every request unread. Returns the number of requests and the CPU time while `measures` is set.
fn serve(core: usize, sockets: Vec<TcpStream>, measures: &AtomicBool, ended: &AtomicBool) -> (u64, Duration) {
    pin(core);
    let epoll = watch(&sockets);
    let (mut events, mut indexes) = (Vec::with_capacity(EVENTS), Vec::with_capacity(EVENTS));
    let mut buffer = vec![0; 64 << 10];
    let (mut requests, mut began) = (0, None);
    while !ended.load(Ordering::Relaxed) {
        ready(&epoll, &mut events, &mut indexes);
        if began.is_none() && measures.load(Ordering::Relaxed) {
            (requests, began) = (0, Some(cpu()));
        }
        for index in &indexes {
            let mut socket = &sockets[*index];
            match socket.read(&mut buffer) {
                Ok(0) => return (requests, cpu() - began.unwrap_or_default()),
                Ok(bytes) => {
                    // Each connection has one request under way, so the socket has room for the answer.
                    socket.write_all(&buffer[..bytes]).unwrap();
                    requests += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    (requests, cpu() - began.unwrap_or_default())
}

fn echo(connections: usize, size: usize, seconds: Duration, server_core: usize, client_core: usize) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        ours.push(TcpStream::connect(address).unwrap());
        theirs.push(listener.accept().unwrap().0);
    }
    let (measures, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let flags = (measures.clone(), ended.clone());
    let server = thread::spawn(move || serve(server_core, theirs, &flags.0, &flags.1));
    pin(client_core);
    let epoll = watch(&ours);
    let (mut events, mut indexes) = (Vec::with_capacity(EVENTS), Vec::with_capacity(EVENTS));
    let (request, mut buffer) = (vec![b'x'; size], vec![0; 64 << 10]);
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    let (mut sent, mut missing) = (vec![Instant::now(); connections], vec![size; connections]);
    for mut socket in &ours {
        socket.write_all(&request).unwrap();
    }
    let (from, mut answers) = (Instant::now() + WARM_UP, 0u64);
    let until = from + seconds;
    loop {
        ready(&epoll, &mut events, &mut indexes);
        let now = Instant::now();
        if now >= until {
            break;
        }
        let is_measured = now >= from;
        measures.store(is_measured, Ordering::Relaxed);
        for index in indexes.iter().copied() {
            let mut socket = &ours[index];
            missing[index] -= socket.read(&mut buffer).unwrap();
            if missing[index] == 0 {
                if is_measured {
                    answers += 1;
                    latency.saturating_record((now - sent[index]).as_nanos() as u64);
                }
                (sent[index], missing[index]) = (now, size);
                socket.write_all(&request).unwrap();
            }
        }
    }
    ended.store(true, Ordering::Relaxed);
    let (requests, used) = server.join().unwrap();
    json!({
        "requests_per_second": answers as f64 / seconds.as_secs_f64(),
        "server_cpu_us_per_request": used.as_secs_f64() * 1e6 / requests as f64,
        "p50_us": latency.value_at_quantile(0.5) as f64 / 1e3,
        "p99_us": latency.value_at_quantile(0.99) as f64 / 1e3,
    })
}

fn main() {
    let result = match Args::parse().what {
        What::Gaps { cores, seconds } => gaps(&cores, Duration::from_secs_f64(seconds)),
        What::Echo { connections, size, seconds, server_core, client_core } => {
            echo(connections, size, Duration::from_secs_f64(seconds), server_core, client_core)
        }
    };
    println!("{result}");
}
