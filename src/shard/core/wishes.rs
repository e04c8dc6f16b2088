//! A wish about a queue, once its creation was checked.

use crate::base::wish::Alteration;
use crate::store::NewQueue;

/// A wish whose creation was checked.
#[derive(Debug)]
pub(super) enum Checked {
    Find,
    Create(NewQueue),
    Alter(Alteration),
}
