//! How a client speaks: the protocols, each on top of the same operations. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the protocol of a connection, whichever it is |
//! | `streaming` | the streaming protocol: one operation after the other on a connection |
//! | `echo` | the echo of WebSocket conformance suites |
//! | `handshake` | a handshake: which front a path leads to, and whether the request is acceptable |
//! | `identity` | who asks |
//! | `policy` | who may connect, and as which project |
//! | `status` | what a connection must know of its front |
//! | `context` | what a front borrows for one call |
//! | `framed` | when the messages that are framed began their way |
//! | `pb_writer` | how a pb becomes a frame |

mod context;
mod echo;
mod framed;
mod handshake;
mod identity;
mod pb_writer;
mod policy;
mod status;
mod streaming;

pub use context::{Cx, status_of};
pub use framed::{Framed, Origin};
pub use handshake::{Endpoint, Handshake, SUBPROTOCOL};
pub use identity::{Credentials, Identity};
pub use pb_writer::PbWriter;
pub use policy::Policy;
pub use status::FrontStatus;
pub use streaming::ServerSession;

use self::echo::Echo;
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::units::{Offset, Partition};
use crate::operation::{Answer, Caller, OperationId};
use crate::ws::{CloseCode, MessageKind};

/// The protocol that a connection speaks, and all that it keeps.
#[derive(Debug)]
pub enum Front {
    /// The streaming protocol.
    Streaming(Box<ServerSession>),
    /// The echo.
    Echo(Echo),
}

/// A step of draining.
#[derive(Clone, Copy, Debug)]
pub enum DrainStep {
    /// No new operation; a produce operation ends.
    Producers,
    /// A consume operation sends what is stored, and ends.
    Consumers {
        /// When it ends at the latest.
        until: Millis,
    },
}

impl Front {
    /// The front of an endpoint, for a caller who is let in.
    pub fn new(endpoint: Endpoint, caller: Caller) -> Self {
        match endpoint {
            Endpoint::Streaming => Self::Streaming(Box::new(ServerSession::new(caller))),
            Endpoint::Echo => Self::Echo(Echo::default()),
        }
    }

    /// A piece of a wsmessage, and whether it ends it. Returns how much was taken; where that is not all, the rest must be
    /// brought again once [`Self::is_blocked`] is false. A close code ends the connection.
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
            Self::Echo(echo) => {
                echo.handle(cx.reply.sender, cx.reply.out, kind, piece, fin)?;
                Ok(piece.len())
            }
        }
    }

    /// Whether no more of the client's bytes can be taken now.
    #[inline]
    pub fn is_blocked(&self, cx: &Cx<'_>) -> bool {
        match self {
            Self::Streaming(session) => session.is_blocked(cx),
            Self::Echo(_) => false,
        }
    }

    /// The budget may have room for what the front waits for.
    pub fn retry(&mut self, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.retry(cx);
        }
    }

    /// All bytes of a turn were handed in: what they brought goes to the shard.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.flush(cx);
        }
    }

    /// An answer to a command of `operation`.
    pub fn answer(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.answer(operation, answer, cx);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.handle_timeout(cx);
        }
    }

    /// Draining takes a step.
    pub fn drain(&mut self, step: DrainStep, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.drain(step, cx);
        }
    }

    /// Writes everything that is due now.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.poll_transmit(cx);
        }
    }

    /// The connection is gone: gives everything back.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.abandon(cx);
        }
    }

    /// Our own code has failed in the middle of something: says so, without looking at anything that may be half done.
    pub fn break_off(&mut self, cx: &mut Cx<'_>) {
        if let Self::Streaming(session) = self {
            session.break_off(cx);
        }
    }

    /// What its connection must know.
    #[inline]
    pub fn status(&self) -> FrontStatus {
        match self {
            Self::Streaming(session) => session.status(),
            Self::Echo(_) => FrontStatus::default(),
        }
    }

    /// The project, and the queue of the present operation, where there is one.
    pub fn names(&self) -> Option<(&Project, Option<&QueueName>)> {
        match self {
            Self::Streaming(session) => Some(session.names()),
            Self::Echo(_) => None,
        }
    }

    /// Of a consume operation, its queue, each partition that it reads and the offset that comes next.
    pub fn positions(&self) -> Option<(FullName, Vec<(Partition, Offset)>)> {
        match self {
            Self::Streaming(session) => session.positions(),
            Self::Echo(_) => None,
        }
    }
}
