//! A panic of one thread ends the process.

use super::{children, logging};

/// A thread of the server that panics takes the process with it: half a server would lose what the other half was promised.
#[derive(Debug)]
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the server has panicked: the process ends");
            children::end_all();
            logging::finish();
            std::process::abort();
        }
    }
}
