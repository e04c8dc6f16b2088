//! The process as a whole: allocator, log, terminal, child processes, service manager.
//!
//! | file | one concept |
//! | --- | --- |
//! | `heap` | the allocator's settings |
//! | `logging` | log lines, at a bounded rate |
//! | `terminal` | text for people: escaped, coloured, on standard error |
//! | `inherited` | listening sockets that the service manager passed |
//! | `manager` | what the process tells its service manager |
//! | `children` | commands that are run and killed |
//! | `command` | runs a command that prints a token |
//! | `feed` | runs a command that gets bytes on its standard input |
//! | `wall_clock` | the wall clock of the system |
//! | `watcher` | notices changes of files |
//! | `abort` | aborts the process if a thread panics |

mod abort;
pub(crate) mod children;
pub(crate) mod command;
pub(crate) mod feed;
pub(crate) mod heap;
pub(crate) mod inherited;
pub(crate) mod logging;
pub(crate) mod manager;
pub(crate) mod terminal;
mod wall_clock;
mod watcher;

pub use abort::AbortOnPanic;
pub use wall_clock::unix_now;
pub use watcher::Watcher;
