//! The process as a whole: allocator, log, terminal, child processes.
//!
//! | file | one concept |
//! | --- | --- |
//! | `heap` | the allocator's settings |
//! | `logging` | log lines, at a bounded rate |
//! | `terminal` | text for people: escaped, coloured, on standard error |
//! | `children` | commands that the server runs and kills |
//! | `abort` | aborts the process if a thread panics |

mod abort;
pub(crate) mod children;
pub(crate) mod heap;
pub(crate) mod logging;
pub(crate) mod terminal;

pub use abort::AbortOnPanic;
