//! The client side of OpenStack's Zaqar API v2 over WebSocket. `queue`, `message` and `bench zaqar` use it.
//!
//! | file | one concept |
//! | --- | --- |
//! | `request` | what all requests have, and the one that shows a token |
//! | `answer` | the status and the body of an answer |
//! | `whole` | whole WebSocket messages from their pieces |
//! | `asker` | one connection that asks one thing at a time, for a thread that waits |

mod answer;
mod asker;
mod request;
mod whole;

pub use answer::{Answer, is_success, reason};
pub use asker::Asker;
pub use request::{authenticate, headers, target};
pub use whole::Whole;
