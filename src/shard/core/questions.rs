//! The questions of a shard to the judge, and the clients that wait until they may ask.
//!
//! At most [`ASKED_MAX`] questions of a shard wait for an answer, and [`ASKED_OF_ADDRESS_MAX`] of one address. Further
//! clients wait in the line of their address, and the addresses take turns. A client in line costs no more than
//! one whose handshake is incomplete.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use super::ConnectionId;
use crate::auth::{Question, counted};

/// The most questions of a shard that wait for an answer.
const ASKED_MAX: usize = 256;
/// The most of these about clients of one address, so that one address does not use up the questions of all.
const ASKED_OF_ADDRESS_MAX: usize = 64;

/// The questions of a shard.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// The questions that are not answered, by tag, with the addresses that they count for.
    asked: HashMap<u64, IpAddr>,
    of_address: HashMap<IpAddr, Line>,
    /// The addresses with a line that may go on, in order.
    ready: VecDeque<IpAddr>,
    /// The addresses with a line that waits for the answer to any question.
    stalled: VecDeque<IpAddr>,
    /// The questions that the judge has not got yet.
    new: VecDeque<Question>,
}

/// The clients of one address that wait for a verdict.
#[derive(Debug, Default)]
struct Line {
    /// The number of questions that wait for an answer.
    asked: usize,
    /// The connections that wait for their question, in order. Some may be gone.
    waiting: VecDeque<ConnectionId>,
    /// Whether the address is in one of the lists.
    is_listed: bool,
}

impl Questions {
    /// Asks the judge. Returns false if too many questions wait.
    pub(super) fn ask(&mut self, question: Question) -> bool {
        let network = network(question.address);
        let of_address = self.of_address.get(&network).map_or(0, |line| line.asked);
        let is_waiting = self.asked.contains_key(&question.tag);
        if is_waiting || of_address >= most(network) || self.asked.len() >= ASKED_MAX {
            return false;
        }
        self.asked.insert(question.tag, network);
        self.of_address.entry(network).or_default().asked += 1;
        self.new.push_back(question);
        true
    }

    /// Adds a connection to the line of its address.
    pub(super) fn wait(
        &mut self,
        id: ConnectionId,
        address: Option<IpAddr>,
        is_open: impl Fn(&ConnectionId) -> bool,
        open: usize,
    ) {
        let network = network(address);
        let line = self.of_address.entry(network).or_default();
        line.waiting.push_back(id);
        // A connection that is gone stays in line until its turn comes.
        if line.waiting.len() > open {
            line.waiting.retain(is_open);
        }
        if line.asked < most(network) && !std::mem::replace(&mut line.is_listed, true) {
            self.stalled.push_back(network);
        }
    }

    /// Counts an answer, so that another client may ask.
    pub(super) fn handle_answered(&mut self, tag: u64) {
        let Some(network) = self.asked.remove(&tag) else { return };
        self.ready.extend(self.stalled.pop_front());
        let Some(line) = self.of_address.get_mut(&network) else { return };
        line.asked = line.asked.saturating_sub(1);
        if line.waiting.is_empty() {
            if line.asked == 0 && !line.is_listed {
                self.of_address.remove(&network);
            }
        } else if !std::mem::replace(&mut line.is_listed, true) {
            self.ready.push_back(network);
        }
    }

    /// Removes and returns the next connection in line that may ask.
    pub(super) fn next_in_line(&mut self) -> Option<ConnectionId> {
        while let Some(network) = self.ready.pop_front() {
            let Some(line) = self.of_address.get_mut(&network) else { continue };
            if line.asked < most(network)
                && let Some(id) = line.waiting.pop_front()
            {
                if self.asked.len() < ASKED_MAX {
                    // The addresses take turns.
                    self.ready.push_back(network);
                    return Some(id);
                }
                line.waiting.push_front(id);
                self.stalled.push_back(network);
                continue;
            }
            line.is_listed = false;
            if line.asked == 0 && line.waiting.is_empty() {
                self.of_address.remove(&network);
            }
        }
        None
    }

    /// Removes and returns the next question for the judge.
    pub(super) fn poll(&mut self) -> Option<Question> {
        self.new.pop_front()
    }

    /// Returns whether clients in line may ask.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

/// Returns the most questions about clients of one address that wait for an answer.
fn most(network: IpAddr) -> usize {
    if network == UNIX { ASKED_MAX } else { ASKED_OF_ADDRESS_MAX }
}

/// Stands for all Unix sockets.
const UNIX: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Returns the address that a client counts for.
fn network(address: Option<IpAddr>) -> IpAddr {
    address.map_or(UNIX, counted)
}
