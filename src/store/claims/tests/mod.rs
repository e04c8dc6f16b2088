//! The tests of claims: the ledger against a model, and ledgers around the memory store.

mod model;
mod stores;
