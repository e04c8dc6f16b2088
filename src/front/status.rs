//! What a front reports to its connection.

use crate::base::budget::Wanted;
use crate::base::millis::Millis;
use crate::ws::CloseCode;

/// The state of a front. The default is an idle front.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrontStatus {
    /// The reservation that the front waits for.
    pub wanted: Option<Wanted>,
    /// The code to close the connection with.
    pub close: Option<CloseCode>,
    /// Whether an operation is open, so that our half has started or will start.
    pub is_busy: bool,
    /// Whether a produce operation is open, or an operation that still waits for its queue or positions.
    pub is_producing: bool,
    /// Whether a consume operation is open.
    pub is_consuming: bool,
    /// Whether a claim operation is open.
    pub is_claiming: bool,
    /// Whether a consume operation is behind: it still reads messages that were stored before it could take them.
    pub is_behind: bool,
    /// Whether a producer waits for credit that the budget withheld.
    pub is_starved: bool,
    /// Whether the client waits for the server: for memory, the catalogue or the store.
    pub waits_for_us: bool,
    /// Whether more may be ready to send when the output has room.
    pub goes_on: bool,
    /// The number of messages that the client of a produce operation may still send.
    pub credit: Option<u64>,
    /// The next deadline, by the monotonic clock in milliseconds.
    pub next_deadline: Option<Millis>,
}
