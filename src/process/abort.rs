//! Aborts the process if a thread panics.

use super::{children, logging};

/// A guard for a server thread: if the thread panics, the process aborts. A server that has lost a thread
/// could not keep the promises that this thread made.
#[derive(Debug)]
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("server thread panicked: aborting the process");
            children::end_all();
            logging::finish();
            std::process::abort();
        }
    }
}
