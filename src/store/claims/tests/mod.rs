//! The tests of claims: the ledger against a model, ledgers around stores, and single cases.

mod cases;
mod limits;
mod managing;
mod model;
mod moves;
mod stores;
