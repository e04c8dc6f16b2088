//! Who may do how much: projects, what they use, and their limits. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `tenants` | projects whose use is limited, and permits for what they use |
//! | `share` | what of a project's rates one operation has taken |

mod share;
mod tenants;

pub use share::Share;
pub use tenants::{Permit, Tenant, Tenants, Use};
