//! The client side of the streaming protocol, on glommio. `produce`, `consume`, `claim`, `bench` and the tests use it.
//!
//! | file | one concept |
//! | --- | --- |
//! | `address` | a server's URL |
//! | `resolve` | name resolution |
//! | `session/` | one produce, consume or claim operation, without I/O |
//! | `wire` | handshake and frames of one connection, without I/O |
//! | `error` | why a connection ended, and whether a retry can help |
//! | `trust` | which servers to trust, and the certificate of the client: reads the files |
//! | `connection` | opens and closes a connection |
//! | `link` | how the bytes of a connection travel |
//! | `secure` | TLS on a socket |
//! | `silence` | pings to a silent server, and when to give it up |
//! | `driver` | one connection on a socket: reads, polls the application, writes |
//! | `produce` | sends messages from a source, and resends them until acknowledged |
//! | `consume` | reads the messages of a queue, each once, across reconnects |
//! | `claim` | claims messages for a worker and settles them, across reconnects |
//! | `place` | the position of a consumer: a marker, and the messages taken beyond it |
//! | `end` | the end of a queue, for a consumer that stops there |
//! | `control` | requests to a control port over HTTP |
//! | `token_source` | where a client obtains its tokens: a file, a command, or the environment |
//! | `tokens` | the tokens of a client's connections, read off their threads |
//! | `renewer` | renews the grant of a connection with another token |
//! | `zaqar/` | a client of OpenStack's Zaqar API |
//! | `resume` | runs `produce`, `consume` or `claim` over as many connections as it takes |

mod address;
mod claim;
mod connection;
mod consume;
mod control;
mod dial;
mod driver;
mod end;
mod error;
mod link;
mod place;
mod produce;
mod renewer;
mod resolve;
mod resume;
mod secure;
pub mod session;
mod silence;
mod token_source;
mod tokens;
mod trust;
mod wire;
pub mod zaqar;

pub use address::{Address, Endpoint, Scheme, without_secret};
pub use claim::{Claim, ClaimLimits, ClaimTally, Stage, Ticket, Worker};
pub use connection::{Connection, connect, open};
pub use consume::{Consume, Sink};
pub use control::{ControlClient, ControlError};
pub use driver::{Application, Next, run, run_with_buffer};
pub use error::ClientError;
pub use produce::{Block, Produce, ProduceStats, Source};
pub use resume::{Resume, run_resumed};
pub use token_source::TokenSource;
pub use tokens::Tokens;
pub use trust::{Trust, TrustSettings};
pub use wire::{Target, Wire};

use std::time::Duration;

/// The first and the longest pause before a reconnect. Each pause is twice the previous one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Returns the pause before attempt number `attempt`, counted from 0.
fn backoff(attempt: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << attempt.min(16)).min(BACKOFF.1)
}

/// Runs a task on an executor of its own, for the tests of this room.
#[cfg(test)]
fn on_executor<T: Send + 'static, F: Future<Output = T> + 'static>(
    make: impl FnOnce() -> F + Send + 'static,
) -> T {
    let settings = crate::shard::executor::ExecutorSettings { name: "test".into(), core: None };
    crate::shard::executor::spawn(settings, make).unwrap().join().unwrap()
}
