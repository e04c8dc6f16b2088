//! Projects, what they use, and their limits. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `tenants` | projects whose use is limited, and permits for that use |
//! | `limits` | the limits of one project |
//! | `share` | the part of a project's storage that one operation or partition uses |

mod limits;
mod share;
mod tenants;

pub use limits::ProjectLimits;
pub use share::StorageShare;
pub use tenants::{Permit, Tenant, Tenants, Use};
