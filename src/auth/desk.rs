//! Questions of threads that are no shards, each with its own reply.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::credential::{Credential, Keyer, TOKEN_BYTES_MAX};
use super::judge::Judge;
use super::question::{Answer, Question, Verdict};
use crate::base::secret::Secret;

/// The most questions that wait for a verdict. Each may hold a token of 16 KiB.
const WAITING_MAX: usize = 64;

type Reply = Box<dyn FnOnce(Verdict) + Send>;

/// The replies that wait for a verdict. Clones share them.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<HashMap<u64, Reply>>>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Reply>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles what the judge tells its listeners: verdicts are passed on, other news concern nobody here, because no
    /// verdict is remembered.
    pub fn handle(&self, answer: Answer) {
        let Answer::Judged { tag, verdict, .. } = answer else { return };
        let reply = self.lock().remove(&tag);
        if let Some(reply) = reply {
            reply(verdict);
        }
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

    /// Asks who the client with a token is. Calls `reply` on the judge's thread, or drops it if too many questions wait or
    /// the token is too long.
    pub fn ask(&self, token: &str, address: IpAddr, reply: impl FnOnce(Verdict) + Send + 'static) {
        if token.len() > TOKEN_BYTES_MAX {
            return;
        }
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return;
            }
            waiting.insert(tag, Box::new(reply));
        }
        let credential = Credential::Token(Secret::new(token));
        let key = self.keyer.key(&credential);
        let (shard, address) = (self.listener, Some(address));
        if self.judge.ask(Question { shard, tag, key, credential, address, is_renewal: false }).is_err() {
            self.waiting.lock().remove(&tag);
        }
    }
}
