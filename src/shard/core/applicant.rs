//! A client that asks to be admitted: what it claims, and what admission makes of it.

use super::pass::Pass;
use crate::access::Permit;
use crate::auth::Credential;
use crate::base::millis::Millis;
use crate::base::names::Project;
use crate::operation::Author;

/// What a client that waits for its verdict claims.
#[derive(Debug)]
pub(super) struct Applicant {
    pub(super) project: Option<Project>,
    pub(super) author: Author,
    pub(super) credential: Option<Credential>,
    /// Whether it may show a credential later.
    pub(super) may_wait: bool,
}

/// An admitted client.
#[derive(Debug)]
pub struct Admitted {
    /// The permit of its project. `None` if it has not authenticated yet.
    pub(super) permit: Option<Permit>,
    /// The project that it works in.
    pub(super) project: Project,
    /// Its id, as the author of messages.
    pub(super) author: Author,
    /// What it may do. `None` if clients need not authenticate.
    pub(super) pass: Option<Box<Pass>>,
    /// When it must have authenticated, if it has not.
    pub(super) stranger_until: Option<Millis>,
}
