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
//! | `settings` | the providers and their settings |
//! | `token` | tokens of the server's own, and files that list their digests |
//! | `judge` | the thread that answers |

mod credential;
mod judge;
mod question;
mod settings;
pub mod token;

pub use crate::base::secret::Secret;
pub use credential::{Credential, Key, Keyer, own_client};
pub use judge::Judge;
pub use question::{Answer, Audience, Denial, Question, Verdict};
pub use settings::{ProviderKind, Providers, Roles, Settings};
