//! Projects, what they use, their limits, and what authenticated clients may do. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `tenants` | projects whose use is limited, and permits for that use |
//! | `limits` | the limits of one project |
//! | `grant` | what an authenticated client may do |
//! | `rule` | a right on the queues that a pattern matches |
//! | `signature` | signatures that give access without authentication |
//! | `share` | the part of a project's storage that one operation or partition uses |

mod grant;
mod limits;
mod rule;
mod share;
mod signature;
mod tenants;

pub use grant::{Grant, ProjectFault, Projects, own_client};
pub use limits::ProjectLimits;
pub use rule::{Right, Rule};
pub use share::StorageShare;
pub use signature::{Permission, SigningKey};
pub use tenants::{Permit, Tenant, Tenants, Use};
