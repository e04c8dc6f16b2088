//! The client's side of TLS, without I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `session` | one connection: takes records, returns plaintext, seals plaintext into records |
//! | `records` | records that wait to be sent |
//! | `config` | which servers to trust, and the certificate of the client |
//! | `insecure` | accepts every certificate |
//! | `why` | what went wrong, and what to do about it |

mod config;
mod insecure;
mod records;
mod session;
mod why;

pub use config::{Identity, Roots, config, provider};
pub use records::Records;
pub use session::{Security, Session};
pub use why::{Asked, Fault, RootsFrom};
