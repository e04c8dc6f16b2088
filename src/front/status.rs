//! What a connection must know of its front.

use crate::base::budget::Wanted;
use crate::base::millis::Millis;
use crate::ws::CloseCode;

/// See the module's page. The default is that of a front which is idle.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrontStatus {
    /// Bytes of the budget that the front waits for.
    pub wanted: Option<Wanted>,
    /// A reason to close the connection.
    pub close: Option<CloseCode>,
    /// An operation is open: our half of it has begun, or will.
    pub is_busy: bool,
    /// A produce operation is open, or one whose queue or positions are not known yet.
    pub is_producing: bool,
    /// A consume operation is open.
    pub is_consuming: bool,
    /// A producer waits for credit that the budget withheld.
    pub is_starved: bool,
    /// The client waits for us: for memory, the catalogue or the store.
    pub waits_for_us: bool,
    /// There may be more to send whenever there is room.
    pub goes_on: bool,
    /// Messages that the client of a produce operation may send and has not sent.
    pub credit: Option<u64>,
    /// When something is due without any event.
    pub next_deadline: Option<Millis>,
}
