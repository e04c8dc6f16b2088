//! The client that `produce`, `consume`, `bench` and the tests use: the streaming protocol's client side, on glommio.
//!
//! | file | one concept |
//! | --- | --- |
//! | `address` | a server's URL |
//! | `resolve` | the addresses of its name |
//! | `session/` | a produce and a consume operation, without I/O |
//! | `wire` | handshake and frames of one connection, without I/O |
//! | `error` | why a connection ended, and whether another try may go better |
//! | `silence` | how long a server may be silent |
//! | `driver` | one connection on a socket: reads, lets the application write, sends |
//! | `produce` | payloads from a source into a queue, resent until acknowledged |
//! | `consume` | messages of a queue, once each, across reconnects |
//! | `place` | where a consumer goes on: a marker, and what behind it is known |
//! | `end` | where a queue ended, for a consumer that stops there |
//! | `resume` | one of the two over as many connections as it takes |

mod address;
mod consume;
mod driver;
mod end;
mod error;
mod place;
mod produce;
mod resolve;
mod resume;
pub mod session;
mod silence;
mod wire;

pub use address::{Address, Scheme, without_secret};
pub use consume::{Consume, Sink};
pub use driver::{Application, Next, connect, run, run_with_buffer};
pub use error::ClientError;
pub use produce::{Block, Produce, ProduceStats, Source};
pub use resume::{Resume, run_resumed};
pub use wire::{Target, Wire};

use std::time::Duration;

/// The first pause before a reconnect, and the longest; each is twice the one before.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The pause before attempt number `attempt`, counted from 0.
fn backoff(attempt: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << attempt.min(16)).min(BACKOFF.1)
}
