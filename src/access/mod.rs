//! Projects, what they use, their limits, and what authenticated clients may do. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `tenants` | projects whose use is limited, and permits for that use |
//! | `limits` | the limits of one project |
//! | `grant` | what an authenticated client may do |
//! | `rule` | a right on the queues that a pattern matches |
//! | `share` | the part of a project's storage that one operation or partition uses |

mod grant;
mod limits;
mod rule;
mod share;
mod tenants;

pub use grant::{Grant, ProjectFault, Projects};
pub use limits::ProjectLimits;
pub use rule::{Right, Rule};
pub use share::StorageShare;
pub use tenants::{Permit, Tenant, Tenants, Use};
