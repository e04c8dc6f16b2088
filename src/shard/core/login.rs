//! A client that authenticates on an open connection, until the verdict on its token.

use crate::auth::{Credential, Key};
use crate::base::millis::Millis;
use crate::base::names::Project;
use crate::operation::OperationId;

/// A client whose token waits for its verdict.
#[derive(Debug)]
pub(super) struct Login {
    /// The operation that gets the answer.
    pub(super) operation: OperationId,
    /// The key of the token.
    pub(super) key: Key,
    /// The token, until the judge is asked.
    pub(super) credential: Option<Credential>,
    /// The project that the client names.
    pub(super) project: Option<Project>,
    /// When the wait ends.
    pub(super) until: Millis,
}
