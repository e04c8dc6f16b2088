//! The protocols that clients speak, each on top of the same operations. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | dispatch to the protocol of a connection |
//! | `streaming` | the streaming protocol: the operations of a connection, in sequence |
//! | `zaqar` | the WebSocket API of OpenStack Zaqar: a request, then its answer |
//! | `undecided` | a connection whose first data frame decides which of these it speaks |
//! | `echo` | the echo of WebSocket conformance suites |
//! | `handshake` | a handshake: choice of the front by path, and checks of the request |
//! | `identity` | the project and the id of a client |
//! | `policy` | which clients are accepted, and their default project |
//! | `status` | what a front reports to its connection |
//! | `context` | what a front borrows for one call |
//! | `framed` | the messages in the output, and when their latencies started |
//! | `pb_writer` | writes pbs as frames |

mod context;
mod echo;
mod framed;
mod handshake;
mod identity;
mod pb_writer;
mod policy;
mod status;
mod streaming;
mod undecided;
pub mod zaqar;

pub use context::{Cx, status_of};
pub use framed::{Framed, Origin};
pub use handshake::{Endpoint, Handshake, SUBPROTOCOL};
pub use identity::{Credentials, Identity};
pub use pb_writer::PbWriter;
pub use policy::Policy;
pub use status::FrontStatus;
pub use streaming::ServerSession;
pub use zaqar::Standing;

use self::echo::Echo;
use self::undecided::Undecided;
use self::zaqar::Session as ZaqarSession;
use std::sync::Arc;

use crate::access::{Right, Tenants};
use crate::base::error::Fault;
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::QueueId;
use crate::base::units::{Offset, Partition};
use crate::operation::{Answer, Caller, Granted, OperationId, SubscriptionInfo};
use crate::ws::{CloseCode, MessageKind};

/// The protocol of a connection, with its state.
#[derive(Debug)]
pub enum Front {
    /// The streaming protocol.
    Streaming(Box<ServerSession>),
    /// The API of OpenStack Zaqar.
    Zaqar(Box<ZaqarSession>),
    /// The echo, for tests and measurements.
    Echo(Echo),
    /// The streaming protocol or the API of Zaqar.
    Undecided(Box<Undecided>),
}

/// A step of draining.
#[derive(Clone, Copy, Debug)]
pub enum DrainStep {
    /// Accept no new operations and end produce operations.
    Producers,
    /// Consume operations send what is stored and then end.
    Consumers {
        /// When they end at the latest, by the monotonic clock in milliseconds.
        until: Millis,
    },
}

impl Front {
    /// Creates the front of an endpoint for a caller that was admitted.
    pub fn new(endpoint: Endpoint, caller: Caller, standing: Standing, tenants: &Arc<Tenants>) -> Self {
        match endpoint {
            Endpoint::Zaqar => Self::Zaqar(Box::new(ZaqarSession::new(caller, standing, tenants.clone()))),
            Endpoint::Streaming => Self::Streaming(Box::new(ServerSession::new(caller))),
            Endpoint::Echo => Self::Echo(Echo::default()),
            Endpoint::Undecided => Self::Undecided(Box::new(Undecided::new(caller, tenants.clone()))),
        }
    }

    /// Handles a piece of a WebSocket message. `fin` says whether it ends the message. Returns how many bytes
    /// were taken; pass the rest again once [`Self::is_blocked`] returns false. A close code as error ends
    /// the connection.
    #[inline]
    pub fn handle_data(
        &mut self,
        kind: MessageKind,
        piece: &[u8],
        fin: bool,
        cx: &mut Cx<'_>,
    ) -> Result<usize, CloseCode> {
        match self {
            Self::Streaming(_) if kind == MessageKind::Text => Err(CloseCode::UNSUPPORTED),
            Self::Streaming(session) => {
                let used = session.handle_data(piece, fin, cx);
                session.close_code().map_or(Ok(used), Err)
            }
            Self::Zaqar(session) => session.handle_data(kind, piece, fin, cx),
            Self::Echo(echo) => {
                echo.handle(cx.reply.sender, cx.reply.out, kind, piece, fin)?;
                Ok(piece.len())
            }
            Self::Undecided(_) => self.decide(kind, piece, fin, cx),
        }
    }

    /// Handles a piece of the first message, which decides the protocol.
    #[cold]
    fn decide(
        &mut self,
        kind: MessageKind,
        piece: &[u8],
        fin: bool,
        cx: &mut Cx<'_>,
    ) -> Result<usize, CloseCode> {
        if let Self::Undecided(undecided) = self
            && let Some(decided) = undecided.decide(kind, piece, fin, cx)
        {
            *self = decided;
        }
        match self {
            Self::Streaming(session) => {
                let used = session.handle_data(piece, fin, cx);
                session.close_code().map_or(Ok(used), Err)
            }
            Self::Zaqar(session) => session.handle_data(kind, piece, fin, cx),
            Self::Undecided(_) | Self::Echo(_) => Ok(piece.len()),
        }
    }

    /// Returns whether no more input can be taken for now.
    #[inline]
    pub fn is_blocked(&self, cx: &Cx<'_>) -> bool {
        match self {
            Self::Streaming(session) => session.is_blocked(cx),
            Self::Zaqar(session) => session.is_blocked(),
            Self::Echo(_) | Self::Undecided(_) => false,
        }
    }

    /// Retries the reservation that the front waits for, because the budget may have room.
    pub fn retry(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.retry(cx),
            Self::Zaqar(session) => session.retry(cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Submits the messages of this turn, after all input of the turn was passed in.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.flush(cx),
            Self::Zaqar(_) | Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Handles the answer to a command of `operation`.
    pub fn answer(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.answer(operation, answer, cx),
            Self::Zaqar(session) => session.answer(operation, answer, cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Returns whether an operation reads or claims messages of a queue.
    pub fn reads(&self, queue: QueueId) -> bool {
        match self {
            Self::Streaming(session) => session.reads(queue),
            Self::Zaqar(session) => session.reads(queue),
            Self::Echo(_) | Self::Undecided(_) => false,
        }
    }

    /// Returns the subscriptions of the connection to a queue.
    pub fn subscriptions(&self, name: &FullName) -> Vec<SubscriptionInfo> {
        match self {
            Self::Zaqar(session) => session.subscriptions(name),
            Self::Streaming(_) | Self::Echo(_) | Self::Undecided(_) => Vec::new(),
        }
    }

    /// Ends subscriptions of the connection to a queue: the one with this id, or all.
    pub fn end_subscriptions(&mut self, name: &FullName, id: Option<&str>, cx: &mut Cx<'_>) {
        match self {
            Self::Zaqar(session) => session.end_subscriptions(name, id, cx),
            Self::Streaming(_) | Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Handles that the queue that it reads has more partitions.
    pub fn handle_grown(&mut self) {
        match self {
            Self::Streaming(session) => session.handle_grown(),
            Self::Zaqar(session) => session.handle_grown(),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Continues with another grant of the same client. Ends operations that the grant does not allow.
    pub fn handle_grant(&mut self, granted: Granted, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.handle_grant(granted, cx),
            Self::Zaqar(session) => session.handle_grant(granted, cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Ends all operations, because the client's grant has ended. No further one may begin.
    pub fn handle_expired(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.handle_expired(fault, cx),
            Self::Zaqar(session) => session.handle_expired(cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Tells the client that its grant ends soon.
    pub fn announce_expiry(&mut self) {
        match self {
            Self::Streaming(session) => session.announce_expiry(),
            Self::Zaqar(_) | Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Handles the deadlines that have passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.handle_timeout(cx),
            Self::Zaqar(session) => session.handle_timeout(cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Returns the code and the reason of a Close that is due.
    pub fn farewell(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::Streaming(_) | Self::Echo(_) | Self::Undecided(_) => None,
            Self::Zaqar(session) => session.farewell(),
        }
    }

    /// Returns the code and the reason of the Close of a client whose grant has ended because of `reason`.
    pub fn farewell_of_ended(&self, reason: &'static str) -> (CloseCode, &'static str) {
        match self {
            Self::Zaqar(_) => (CloseCode::AUTHENTICATION_EXPIRED, zaqar::texts::AUTHENTICATION_EXPIRED),
            Self::Streaming(_) | Self::Echo(_) | Self::Undecided(_) => (CloseCode::POLICY, reason),
        }
    }

    /// Takes a step of draining.
    pub fn drain(&mut self, step: DrainStep, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.drain(step, cx),
            Self::Zaqar(session) => session.drain(step, cx),
            Self::Undecided(undecided) => undecided.drain(step),
            Self::Echo(_) => {}
        }
    }

    /// Writes everything that is due.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.poll_transmit(cx),
            Self::Zaqar(session) => session.poll_transmit(cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Releases everything, because the connection is closed.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.abandon(cx),
            Self::Zaqar(session) => session.abandon(cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Reports an internal error to the client after a panic, without touching state that may be
    /// inconsistent.
    pub fn break_off(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Streaming(session) => session.break_off(cx),
            Self::Zaqar(session) => session.break_off(cx),
            Self::Echo(_) | Self::Undecided(_) => {}
        }
    }

    /// Returns what the connection must know.
    #[inline]
    pub fn status(&self) -> FrontStatus {
        match self {
            Self::Streaming(session) => session.status(),
            Self::Zaqar(session) => session.status(),
            Self::Echo(_) | Self::Undecided(_) => FrontStatus::default(),
        }
    }

    /// Returns the project, and the queue of the current operation if there is one.
    pub fn names(&self) -> Option<(&Project, Option<&QueueName>)> {
        match self {
            Self::Streaming(session) => Some(session.names()),
            Self::Zaqar(session) => Some(session.names()),
            Self::Undecided(undecided) => Some((undecided.project(), None)),
            Self::Echo(_) => None,
        }
    }

    /// Returns the right that the present operation needs.
    pub fn right(&self) -> Option<Right> {
        match self {
            Self::Streaming(session) => session.right(),
            Self::Zaqar(session) => session.right(),
            Self::Echo(_) | Self::Undecided(_) => None,
        }
    }

    /// Returns the queue of a consume operation, and each partition that it reads with the next offset.
    pub fn positions(&self) -> Option<(FullName, Vec<(Partition, Offset)>)> {
        match self {
            Self::Streaming(session) => session.positions(),
            Self::Zaqar(_) | Self::Echo(_) | Self::Undecided(_) => None,
        }
    }
}
