//! What belongs to the process as a whole.
//!
//! | file | one concept |
//! | --- | --- |
//! | `heap` | the allocator's settings |
//! | `logging` | log lines, at a bounded rate |
//! | `terminal` | text for people: escaped, coloured, on standard error |
//! | `children` | commands that the server runs; none outlives it |
//! | `abort` | a panic of one thread ends the process |

mod abort;
pub(crate) mod children;
pub(crate) mod heap;
pub(crate) mod logging;
pub(crate) mod terminal;

pub use abort::AbortOnPanic;
