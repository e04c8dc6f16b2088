//! Tests claim operations: the credit, which numbers settle what, and the ends of an operation.

mod cases;
mod model;
mod worker;
