//! The tests of claims: the ledger against a model, ledgers around stores, and single cases.

mod cases;
mod limits;
#[macro_use]
mod managing;
mod leases;
mod model;
mod moves;
mod stores;
