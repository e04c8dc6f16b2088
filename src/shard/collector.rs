//! The thread that collects the histograms of the shards, merges them, and keeps them for the control port.
//!
//! Once per [`LatencySettings::interval`] each shard gets empty histograms and returns full ones. Counts are
//! merged, so percentiles are those of all messages.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::core::ShardPulse;
use super::interval::Interval;
use super::probe::Probe;
use crate::base::setting::settings;
use crate::latency::Recorder;
use crate::latency::{Lines, LogFile};
use crate::process::{AbortOnPanic, unix_now};

/// How long shards may take to answer. Later answers count in the next interval.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The shortest time between two collections.
const PACE: Duration = Duration::from_millis(100);

/// The number of intervals that are kept for display: five minutes at one second each. Each takes about 20
/// KiB at any load.
pub const HISTORY: usize = 300;

settings! {
    /// Settings of the latency histograms.
    #[derive(Clone, Debug)]
    pub struct LatencySettings {
        in Latency, AtStart:
        /// An HdrHistogram interval log (.hlog) to append each stage's histogram to; about 4 KiB per interval
        /// under load; empty: none
        log: Option<PathBuf> = None, "latency_log", Text;
        /// How often the shards' histograms are collected: the resolution of latency_log and of the live page
        interval: Duration = Duration::from_secs(1), "latency_interval", Duration(100..=3_600_000);
    }
}

/// The answer of a shard: its number, its histograms and its state.
type Answer = (usize, Recorder, ShardPulse);

enum Wish {
    /// Collect from the shards now, then call this.
    Collect(Box<dyn FnOnce() + Send>),
    /// Reopen the latency log, which may have been renamed.
    ReopenLog,
    /// End, because the shards have ended. Holds their last histograms.
    End(Vec<Recorder>),
}

/// What follows the lines of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The lines continue in the file that has the log's name then.
    File,
    /// Nothing, because the server ends.
    Nothing,
}

/// The latencies collected so far.
#[derive(Debug)]
struct Known {
    /// The histograms of all shards since the server started.
    total: Recorder,
    history: VecDeque<Arc<Interval>>,
}

/// Access to the collected data, for any thread except a shard's.
#[derive(Clone, Debug)]
pub struct Board {
    known: Arc<Mutex<Known>>,
    wishes: Sender<Wish>,
    /// The number of the newest interval.
    newest: watch::Receiver<u64>,
}

/// The handle of the running thread.
#[derive(Debug)]
pub struct Collector {
    board: Board,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wish")
    }
}

impl Board {
    /// Collects from the shards at once. Calls `then` on the collector's thread when they have answered or
    /// timed out. Returns false if the server has ended.
    pub fn collect(&self, then: impl FnOnce() + Send + 'static) -> bool {
        self.wishes.send(Wish::Collect(Box::new(then))).is_ok()
    }

    /// Reopens the latency log, if there is one, by its name. Returns false if the server has ended.
    pub fn reopen_log(&self) -> bool {
        self.wishes.send(Wish::ReopenLog).is_ok()
    }

    /// Returns the histograms of all shards since the server started.
    pub fn total(&self) -> Recorder {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).total.clone()
    }

    /// Returns the intervals after number `after` that are still kept.
    pub fn history(&self, after: u64) -> Vec<Arc<Interval>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.history.iter().filter(|interval| interval.number > after).cloned().collect()
    }

    /// Returns a channel with the number of the newest interval.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }
}

impl Collector {
    /// Opens the latency log, if it is enabled. Called before a server starts, so that an error prevents the
    /// start.
    pub fn open_log(config: &LatencySettings) -> io::Result<Option<LogFile>> {
        let open = |path: &Path| {
            LogFile::open(path)
                .map_err(|error| io::Error::other(format!("latency_log = {}: {error}", path.display())))
        };
        config.log.as_deref().map(open).transpose()
    }

    /// Starts the thread.
    pub fn start(interval: Duration, log: Option<LogFile>, probe: Probe) -> io::Result<Self> {
        let shards = probe.shards();
        let known = Known { total: Recorder::default(), history: VecDeque::new() };
        let known = Arc::new(Mutex::new(known));
        let (wishes, asked) = channel();
        let (tell, newest) = watch::channel(0);
        let board = Board { known: known.clone(), wishes, newest };
        let (reply, answers) = channel();
        let work = Work {
            probe,
            known,
            tell,
            reply,
            answers,
            spare: (0..shards).map(|_| Some(Recorder::default())).collect(),
            present: vec![Recorder::default(); shards],
            pulses: vec![None; shards],
            began: Instant::now(),
            collected: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("latency".into()).spawn(move || {
            let _guard = AbortOnPanic;
            work.run(interval, &asked, log);
        })?;
        Ok(Self { board, thread })
    }

    /// Returns access to the collected data.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Ends the thread after the shards have ended. `left` are their last histograms. Completes the log, and
    /// returns everything that was recorded.
    pub fn finish(self, left: Vec<Recorder>) -> Recorder {
        // Fails only if the thread has ended, which aborts the process.
        let _ = self.board.wishes.send(Wish::End(left));
        let _ = self.thread.join();
        self.board.total()
    }
}

/// The state of the thread.
struct Work {
    probe: Probe,
    known: Arc<Mutex<Known>>,
    tell: watch::Sender<u64>,
    reply: Sender<Answer>,
    answers: Receiver<Answer>,
    /// Empty histograms to send to each shard. `None` while the shard has them.
    spare: Vec<Option<Recorder>>,
    /// The histograms of each shard in the present interval, and its last known state.
    present: Vec<Recorder>,
    pulses: Vec<Option<ShardPulse>>,
    /// When that interval started, and when the shards were last asked.
    began: Instant,
    collected: Instant,
}

impl Work {
    fn run(mut self, every: Duration, wishes: &Receiver<Wish>, mut log: Option<LogFile>) {
        loop {
            let next = {
                let mut lines = log.as_mut().and_then(|log| said(log.begin()));
                self.run_file(every, wishes, &mut lines)
            };
            if next == Next::Nothing {
                return;
            }
            if let Some(log) = &mut log {
                match log.reopen() {
                    Ok(()) => tracing::info!("latency log reopened"),
                    Err(error) => {
                        tracing::error!(%error, "reopening the latency log failed: continuing in the old file")
                    }
                }
            }
        }
    }

    /// Runs until the lines of one file end.
    fn run_file(&mut self, every: Duration, wishes: &Receiver<Wish>, lines: &mut Option<Lines<'_>>) -> Next {
        loop {
            let due = (self.began + every).saturating_duration_since(Instant::now());
            if due.is_zero() {
                // The interval ends on time, even under many requests.
                self.collect();
                self.end_interval(lines);
                continue;
            }
            match wishes.recv_timeout(due) {
                Ok(Wish::Collect(then)) => {
                    // Limits the cost of frequent requests.
                    std::thread::sleep(PACE.saturating_sub(self.collected.elapsed()));
                    let (mut asked, mut ended, mut is_renamed) = (vec![then], None, false);
                    for wish in wishes.try_iter() {
                        match wish {
                            Wish::Collect(then) => asked.push(then),
                            Wish::ReopenLog => is_renamed = true,
                            Wish::End(left) => ended = Some(left),
                        }
                    }
                    self.collect();
                    asked.into_iter().for_each(|then| then());
                    if let Some(left) = ended {
                        return self.end(left, lines);
                    }
                    if is_renamed {
                        return Next::File;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wish::ReopenLog) => return Next::File,
                Ok(Wish::End(left)) => return self.end(left, lines),
                Err(RecvTimeoutError::Disconnected) => return Next::Nothing,
            }
        }
    }

    /// Handles the end of the shards.
    fn end(&mut self, left: Vec<Recorder>, lines: &mut Option<Lines<'_>>) -> Next {
        // Answers that shards sent before they ended.
        while let Ok((shard, full, pulse)) = self.answers.try_recv() {
            self.take(shard, full, pulse);
        }
        for (shard, mut left) in left.into_iter().enumerate() {
            left.count();
            self.add(shard, &left);
        }
        self.end_interval(lines);
        Next::Nothing
    }

    /// Asks every shard, and waits a limited time for the answers.
    fn collect(&mut self) {
        for shard in 0..self.probe.shards() {
            let Some(empty) = self.spare.get_mut(shard).and_then(Option::take) else { continue };
            let reply = self.reply.clone();
            let asked = self.probe.latency(shard, empty, move |(full, pulse)| {
                // Fails only if the collector has ended.
                let _ = reply.send((shard, full, pulse));
            });
            if !asked {
                // Its inbox is full. It is asked again the next time.
                self.spare[shard] = Some(Recorder::default());
            }
        }
        let until = Instant::now() + ANSWER_TIMEOUT;
        while self.spare.iter().any(Option::is_none) {
            match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((shard, full, pulse)) => self.take(shard, full, pulse),
                Err(_) => break,
            }
        }
        self.collected = Instant::now();
    }

    fn take(&mut self, shard: usize, mut full: Recorder, pulse: ShardPulse) {
        full.count();
        self.add(shard, &full);
        full.clear();
        self.pulses[shard] = Some(pulse);
        self.spare[shard] = Some(full);
    }

    fn add(&mut self, shard: usize, full: &Recorder) {
        self.present[shard].add(full);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).total.add(full);
    }

    /// Ends the interval: writes it to the log and publishes it.
    fn end_interval(&mut self, lines: &mut Option<Lines<'_>>) {
        let length = self.began.elapsed();
        self.began = Instant::now();
        let mut merged = Recorder::default();
        self.present.iter().for_each(|shard| merged.add(shard));
        if let Some(open) = lines
            && said(open.write(length, &merged)).is_none()
        {
            *lines = None;
        }
        let unix = unix_now();
        let number = *self.tell.borrow() + 1;
        let interval = Interval::new(number, unix, length, &merged, &self.present, &self.pulses);
        self.present.iter_mut().for_each(Recorder::clear);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.history.push_back(Arc::new(interval));
        if known.history.len() > HISTORY {
            known.history.pop_front();
        }
        drop(known);
        self.tell.send_replace(number);
    }
}

/// Logs an error of the latency log. The log is then no longer written.
fn said<T>(result: io::Result<T>) -> Option<T> {
    result.map_err(|error| tracing::error!(%error, "latency log write failed: no further lines")).ok()
}
