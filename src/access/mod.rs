//! Who may do how much: projects, what they use, and their limits. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `tenants` | projects whose use is limited, and permits for what they use |
//! | `limits` | what one project may have and do |
//! | `share` | what of a project's storage one operation or partition takes |

mod limits;
mod share;
mod tenants;

pub use limits::ProjectLimits;
pub use share::Share;
pub use tenants::{Permit, Tenant, Tenants, Use};
