//! Authentication: who a client is, and what it may do. Runs on threads beside the shards.
//!
//! A shard that does not know a client's credential sends a [`Question`], and goes on. The judge asks the
//! providers, in the configured order, and gives an [`Answer`] to the shard's inbox. Grants that shards hold
//! are judged again when files, keys or rules change, and when a provider says that a credential is no longer
//! valid. Then every shard gets [`Answer::Changed`].
//!
//! | file | one concept |
//! | --- | --- |
//! | `credential` | what a client shows, and the key under which shards remember the verdict |
//! | `question` | what shards ask, and what they hear |
//! | `desk` | questions of threads that are no shards |
//! | `settings` | the providers and their settings |
//! | `token` | tokens of the server's own, and files that list their digests |
//! | `line` | a line of such a file |
//! | `judge` | the threads: the one that answers, and the one that watches the files |
//! | `state` | what the judge knows, and how it decides |
//! | `registry` | the grants that shards use, and what each rests on |
//! | `outbox` | answers on their way to the shards |
//! | `throttle`, `breaker` | limits of guessing, and of asking a provider that fails |
//! | `provider/` | what each provider makes of a credential |
//! | `read` | reads the files |
//! | `job`, `http` | requests over the network, and the threads that make them |
//! | `snapshot` | what was done so far, for metrics |

mod breaker;
mod credential;
mod desk;
#[cfg(test)]
mod fake;
mod http;
mod job;
mod judge;
mod line;
mod outbox;
mod provider;
mod question;
mod read;
mod registry;
mod settings;
mod snapshot;
mod state;
mod throttle;
pub mod token;

pub use crate::base::secret::Secret;
pub use credential::{Credential, Key, Keyer, TOKEN_BYTES_MAX};
pub use desk::{Desk, Waiting};
pub use judge::{Judge, Read};
pub use line::Line;
pub use provider::jwt::verify as verify_jwt;
pub use question::{Answer, Audience, Denial, Question, Verdict};
pub use settings::{ProviderKind, Providers, Roles, Settings};
pub use snapshot::{Requests, Snapshot};
pub use throttle::{Throttle, counted};
