//! Requests over the network, and the threads that make them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use ureq::SendBody;
use ureq::http::Request;
use url::Url;

use super::credential::Key;
use super::http::{Fault, Http};
use super::provider::jwt::KeySet;
use super::provider::keystone::{Client, Facts, LookupFault};
use crate::base::secret::Secret;
use crate::process::AbortOnPanic;

/// How long a provider may take.
pub(super) const PROVIDER_TIMEOUT: Duration = Duration::from_secs(3);

/// Threads that ask Keystone.
const KEYSTONE_THREADS: usize = 7;

/// Threads that fetch keys. One is enough, and Keystone cannot keep it busy.
const KEYS_THREADS: usize = 1;

/// How many requests wait for a thread.
pub(super) const JOBS_MAX: usize = 1_024;

/// A request.
#[derive(Debug)]
pub(super) enum Job {
    /// What does Keystone know of a token?
    LookUp { flight: u64, key: Key, token: Secret, client: Arc<Client> },
    /// Which keys has an issuer?
    Fetch { number: u64, from: Arc<(Http, Url)> },
}

/// How a request ended.
#[derive(Debug)]
pub(super) enum Done {
    LookedUp { flight: u64, key: Key, result: Result<Facts, LookupFault>, took: Duration },
    Fetched { number: u64, result: Result<KeySet, Fault>, took: Duration },
}

impl Job {
    /// Returns the end of a request that no thread takes.
    pub(super) fn refused(self) -> Done {
        self.ended(Fault::new("too many requests wait"))
    }

    fn ended(self, fault: Fault) -> Done {
        let took = Duration::ZERO;
        match self {
            Self::LookUp { flight, key, .. } => {
                Done::LookedUp { flight, key, result: Err(LookupFault::Unavailable(fault)), took }
            }
            Self::Fetch { number, .. } => Done::Fetched { number, result: Err(fault), took },
        }
    }

    /// Makes the request. May block until `until`.
    fn run(self, until: Instant) -> Done {
        let began = Instant::now();
        if began >= until {
            return self.ended(Fault::new("no thread was free in time"));
        }
        match self {
            Self::LookUp { flight, key, token, client } => {
                let result = client.look_up(&token, until);
                Done::LookedUp { flight, key, result, took: began.elapsed() }
            }
            Self::Fetch { number, from } => {
                let result = fetch(&from.0, &from.1, until.saturating_duration_since(began));
                Done::Fetched { number, result, took: began.elapsed() }
            }
        }
    }
}

fn fetch(http: &Http, url: &Url, timeout: Duration) -> Result<KeySet, Fault> {
    let request = Request::get(url.as_str()).header("Accept", "application/json").body(SendBody::none());
    let reply = http.call(request.map_err(|_| Fault::new("not an address"))?, timeout)?;
    match reply.status() {
        200 => KeySet::published(&reply.body).map_err(Fault::new),
        status @ 300..400 => Err(Fault::new(format_args!("status {status}: redirects are not followed"))),
        status => Err(Fault::new(format_args!("status {status}"))),
    }
}

/// The threads. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    keystone: Sender<(Instant, Job)>,
    keys: Sender<(Instant, Job)>,
}

impl Workers {
    /// Starts the threads.
    pub(super) fn start(done: &Sender<Done>) -> io::Result<Self> {
        Ok(Self {
            keystone: Self::spawn("auth-keystone", KEYSTONE_THREADS, done)?,
            keys: Self::spawn("auth-keys", KEYS_THREADS, done)?,
        })
    }

    fn spawn(name: &str, threads: usize, done: &Sender<Done>) -> io::Result<Sender<(Instant, Job)>> {
        let (sender, jobs): (_, Receiver<(Instant, Job)>) = bounded(JOBS_MAX);
        for _ in 0..threads {
            let (jobs, done) = (jobs.clone(), done.clone());
            let work = move || {
                let _guard = AbortOnPanic;
                for (until, job) in jobs {
                    if done.send(job.run(until)).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name(name.into()).spawn(work)?;
        }
        Ok(sender)
    }

    /// Gives a request to a thread, or returns it if too many wait.
    pub(super) fn give(&self, job: Job) -> Result<(), Job> {
        let queue = match &job {
            Job::LookUp { .. } => &self.keystone,
            Job::Fetch { .. } => &self.keys,
        };
        queue.try_send((Instant::now() + PROVIDER_TIMEOUT, job)).map_err(|error| match error {
            TrySendError::Full((_, job)) | TrySendError::Disconnected((_, job)) => job,
        })
    }
}
