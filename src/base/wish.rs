//! What is wished of a queue as a whole, and the answers: to find, create or alter it.

use std::fmt;

use serde_json::{Map, Value};

use super::attributes::{AttributeFault, Attributes};
use super::error::{Fault, StatusCode, StoreFault};
use super::queue::QueueInfo;

/// A wish about one queue.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Describe it.
    Find,
    /// Create it with these attributes, unless it exists.
    Create(Map<String, Value>),
    /// Alter it.
    Alter(Alteration),
}

/// A queue, as its home knows it.
#[derive(Clone, Debug)]
pub struct Described {
    /// What all shards know of it.
    pub info: QueueInfo,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A change of a queue.
#[derive(Clone, Debug, Default)]
pub struct Alteration {
    /// The changes of its attributes, as [`Attributes::with`] takes them.
    pub changes: Map<String, Value>,
    /// How many partitions the queue shall have.
    pub partitions: Option<u16>,
}

/// A queue that was to be created.
#[derive(Clone, Debug)]
pub struct Created {
    /// Whether it did not exist before.
    pub is_new: bool,
    /// The queue.
    pub queue: Described,
}

/// Why a queue is not created or altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterFault {
    /// An attribute, or the number of partitions, is not allowed.
    Attribute(AttributeFault),
    /// Another fault.
    Fault(Fault),
}

impl AlterFault {
    /// Returns the status of the fault.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Attribute(_) => StatusCode(400),
            Self::Fault(fault) => fault.status(),
        }
    }
}

impl fmt::Display for AlterFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(fault) => fault.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for AlterFault {}

impl From<AttributeFault> for AlterFault {
    fn from(fault: AttributeFault) -> Self {
        Self::Attribute(fault)
    }
}

impl From<Fault> for AlterFault {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreFault> for AlterFault {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault.into())
    }
}

/// The answer to a [`Wish`]. A queue that was found or altered is not new.
pub type Granted = Result<Created, AlterFault>;
