//! Questions of threads that are no shards, each with its own reply.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::credential::{Credential, Key, Keyer, TOKEN_BYTES_MAX};
use super::judge::Judge;
use super::question::{Answer, Question, Verdict};
use crate::access::Grant;
use crate::base::millis::UnixMillis;
use crate::base::secret::Secret;
use crate::process::unix_now;

/// The most questions that wait for a verdict. Each may hold a token of 16 KiB.
const WAITING_MAX: usize = 64;

type Reply = Box<dyn FnOnce(Verdict) + Send>;

/// The most grants that are remembered. Beyond, all are forgotten.
const KNOWN_MAX: usize = 1_024;

/// The replies that wait for a verdict, and the grants that were found, which hold until the judge says otherwise.
/// Clones share them.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<Desks>>);

#[derive(Default)]
struct Desks {
    replies: HashMap<u64, Reply>,
    known: HashMap<Key, Arc<Grant>>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Desks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles what the judge tells its listeners.
    pub fn handle(&self, answer: Answer) {
        match answer {
            Answer::Judged { tag, key, verdict } => {
                let reply = {
                    let mut desks = self.lock();
                    desks.learn(key, &verdict);
                    desks.replies.remove(&tag)
                };
                if let Some(reply) = reply {
                    reply(verdict);
                }
            }
            Answer::Changed(changes) => {
                let mut desks = self.lock();
                for (key, verdict) in changes
                    .iter()
                    .filter(|(key, _)| desks.known.contains_key(key))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    desks.learn(key, &verdict);
                }
            }
            // Refusals are not remembered.
            Answer::Reloaded => {}
        }
    }
}

impl Desks {
    /// Remembers a grant, so that a client with one is never throttled, or forgets it.
    fn learn(&mut self, key: Key, verdict: &Verdict) {
        match verdict {
            Ok(grant) => {
                if self.known.len() >= KNOWN_MAX {
                    self.known.clear();
                }
                self.known.insert(key, grant.clone());
            }
            Err(_) => drop(self.known.remove(&key)),
        }
    }

    /// Returns the grant of a credential, if it is known and has not ended.
    fn grant(&self, key: &Key, unix: UnixMillis) -> Option<Arc<Grant>> {
        let grant = self.known.get(key)?;
        grant.expires.is_none_or(|expires| expires > unix).then(|| grant.clone())
    }
}

/// Asks the judge who clients are. Clones share the questions.
#[derive(Clone, Debug)]
pub struct Desk {
    judge: Judge,
    keyer: Keyer,
    /// Its number among the judge's listeners, behind the shards.
    listener: u16,
    waiting: Waiting,
    tags: Arc<AtomicU64>,
}

impl Desk {
    /// Creates the desk with this number among the judge's listeners. The judge's answers to that listener must go to
    /// `waiting`.
    pub fn new(judge: Judge, keyer: Keyer, listener: u16, waiting: Waiting) -> Self {
        Self { judge, keyer, listener, waiting, tags: Arc::default() }
    }

    /// Asks who the client with a token is. Calls `reply` on this thread or on the judge's, or drops it if too many questions
    /// wait or the token is too long.
    pub fn ask(&self, token: &str, address: IpAddr, reply: impl FnOnce(Verdict) + Send + 'static) {
        if token.len() > TOKEN_BYTES_MAX {
            return;
        }
        let credential = Credential::Token(Secret::new(token));
        let key = self.keyer.key(&credential);
        let unix = unix_now();
        let known = self.waiting.lock().grant(&key, unix);
        if let Some(grant) = known {
            return reply(Ok(grant));
        }
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = self.waiting.lock();
            if waiting.replies.len() >= WAITING_MAX {
                return;
            }
            waiting.replies.insert(tag, Box::new(reply));
        }
        let (shard, address) = (self.listener, Some(address));
        if self.judge.ask(Question { shard, tag, key, credential, address, is_renewal: false }).is_err() {
            self.waiting.lock().replies.remove(&tag);
        }
    }
}
