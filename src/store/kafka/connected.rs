//! A consumer's handle with its two queues: what it reads, and what it has to say beside that.

use std::sync::Arc;

use super::native::{Handle, Queue};
use super::news::News;

/// Its queues go before their handle.
#[derive(Debug)]
pub(super) struct Connected {
    pub messages: Queue,
    /// Errors and log lines: they would pile up.
    pub events: Queue,
    pub handle: Handle,
}

impl Connected {
    pub(super) fn new(handle: Handle, news: &Arc<News>) -> Option<Self> {
        Some(Self { messages: Queue::new(&handle, news)?, events: Queue::main(&handle, news)?, handle })
    }
}
