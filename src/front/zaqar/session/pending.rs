//! A request that is not answered yet.

use std::ops::Range;

use super::super::action::Action;
use super::super::answer::Echo;
use super::super::document::{Format, Node};
use super::outcome::Outcome;
use super::task::Task;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::operation::OperationId;

/// Which requests of a connection may be under way at the same time: those of the same class, without [`Class::Alone`].
/// Each has an effect as if the one before it had ended: the shard and the store keep the order of such requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Stores messages. Those of a connection are stored in order.
    Post,
    /// Changes nothing.
    Read,
    /// Claims messages, or pops them.
    Claim,
    /// Deletes messages by their ids.
    Delete,
    /// Anything else.
    Alone,
}

/// How far a request has come.
#[derive(Debug)]
pub(super) enum State {
    /// It has not begun.
    Waiting,
    /// It waits for its queue, which is being opened.
    Opening(FullName),
    /// It waits for its queue, which is being created.
    Creating(FullName),
    /// It waits until its subscription has begun.
    Subscribing,
    /// It waits for the shard.
    Running(Box<dyn Task>),
    /// It is done, and not answered.
    Done(Outcome),
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// The operation of its commands.
    pub(super) operation: OperationId,
    /// The format of the request and of its answer.
    pub(super) format: Format,
    /// The request.
    pub(super) text: Box<[u8]>,
    /// The parts of it that the answer repeats.
    pub(super) echo: EchoAt,
    pub(super) class: Class,
    pub(super) state: State,
    /// The bytes of the budget that are reserved for it.
    pub(super) reserved: usize,
    /// When it was read, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub(super) read_ns: u64,
    /// When it was done.
    pub(super) known_ns: u64,
    /// The queue that it uses.
    pub(super) queue: Option<QueueId>,
    /// Whether it has begun again, because its queue was deleted.
    pub(super) is_second: bool,
}

impl Pending {
    /// Returns the parts of the request that the answer repeats.
    pub(super) fn echo(&self) -> Echo<'_> {
        let node = |at: &Option<Range<u32>>| {
            let at = at.as_ref()?;
            let raw = self.text.get(at.start as usize..at.end as usize)?;
            Some(Node::of_checked(self.format, raw))
        };
        Echo {
            action: node(&self.echo.action),
            headers: node(&self.echo.headers),
            body: node(&self.echo.body),
        }
    }
}

/// Where in the request the parts are that its answer repeats.
#[derive(Clone, Debug, Default)]
pub(super) struct EchoAt {
    action: Option<Range<u32>>,
    headers: Option<Range<u32>>,
    body: Option<Range<u32>>,
}

impl EchoAt {
    /// Finds the parts in the text that they were read from.
    pub(super) fn of(echo: &Echo<'_>, text: &[u8]) -> Self {
        let at = |node: Option<Node<'_>>| {
            let raw = node?.raw();
            let start = (raw.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
            let end = start.checked_add(raw.len()).filter(|end| *end <= text.len())?;
            Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?)
        };
        Self { action: at(echo.action), headers: at(echo.headers), body: at(echo.body) }
    }
}

impl Class {
    /// Returns how many requests of the class may be under way. Each of those that return messages may hold 4 MiB of them.
    pub(super) fn running_max(self) -> usize {
        match self {
            Self::Post | Self::Delete => usize::MAX,
            Self::Claim => 16,
            Self::Read => 8,
            Self::Alone => 1,
        }
    }

    /// Returns the class of an action.
    pub(super) fn of(action: &Action<'_>) -> Self {
        match action {
            Action::MessagePost { .. } => Self::Post,
            Action::MessageList { .. }
            | Action::MessageGet { .. }
            | Action::MessageGetMany { .. }
            | Action::QueueGet { .. }
            | Action::QueueList { .. }
            | Action::QueueGetStats { .. }
            | Action::ClaimGet { .. } => Self::Read,
            Action::ClaimCreate { .. } | Action::MessageDeleteMany { pop: Some(_), .. } => Self::Claim,
            Action::MessageDelete { .. } | Action::MessageDeleteMany { .. } => Self::Delete,
            _ => Self::Alone,
        }
    }
}
