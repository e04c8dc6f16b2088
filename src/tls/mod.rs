//! TLS without I/O: bytes of a socket go in, plaintext and bytes for the socket come out.
//!
//! | file | one concept |
//! | --- | --- |
//! | `client/` | the client's side of a connection |

pub mod client;
