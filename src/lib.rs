//! Millstream: a thread-per-core WebSocket queue-streaming server, its clients and its load generator.
//!
//! # The rooms
//!
//! Listed from bottom to top. A room (a top-level module) may import only rooms listed before it, and not all
//! of those: `tests/house/rules.rs` lists the allowed imports, and its test checks them.
//!
//! | room | contents | what it must not contain |
//! | --- | --- | --- |
//! | [`base`] | the vocabulary of all rooms: names, queues, batches, clock, faults, limits, budget, settings | I/O |
//! | [`process`] | the allocator's settings, log lines, the terminal, child processes, aborting after a panic | |
//! | [`ws`] | RFC 6455, server and client side | I/O, projects, queues |
//! | [`tls`] | TLS: handshake, opening and sealing records, the server's certificates, the client's trust | I/O, frames |
//! | [`pb`] | protobuf messages, their delimiter, and hand-written coders for the two frequent ones | I/O, frames, operations |
//! | [`latency`] | the stages' histograms: recording, merging, exporting | shards, sockets |
//! | [`access`] | projects, what they use, and their limits | I/O |
//! | [`auth`] | who a client is, and what it may do: providers, on threads beside the shards | shards |
//! | [`operation`] | the server's side of produce and consume: fates, windows, cursors, positions, credit | I/O, protocols |
//! | [`front`] | the protocols that clients speak: the streaming protocol, the echo | I/O, stores |
//! | [`store`] | the `Store` trait; the embedded `log`, the memory store, and `kafka`, the server's only room that uses rdkafka | protocols |
//! | [`shard`] | glommio: turns, sockets, inboxes; `shard::core` decides without I/O | protocol decisions |
//! | [`control`] | health, metrics and the live page over HTTP, on its own thread | the data path |
//! | [`client`] | the client's side of the streaming protocol, and its connection on glommio | stores |
//! | [`load`] | the load generator, built on `client` | |
//! | [`report`] | comparing and plotting the results of loads | measuring |
//! | [`config`] | combining and checking the settings of all rooms; each room declares its own (`settings!`) | how a setting works |
//! | [`cli`] | one file for each subcommand | logic worth testing |
//!
//! # The path of a message
//!
//! 1. `shard::turn` reads a ready connection's transport into the shard's one receive buffer.
//! 2. `shard::core::Connection` hands the bytes to `ws::Receiver`, which unmasks in place.
//! 3. `front::streaming` splits pbs; `operation::produce` checks credit and limits, and copies payloads once,
//!    into an append batch.
//! 4. `shard::core` sends the batch to the partition's owner: its own store, or another shard's inbox.
//! 5. The store's completion returns the same way and becomes a `ProduceResponse`.
//!
//! Delivery works in the opposite direction: a fetch for each partition waits at the partition's owner;
//! batches are shared, not copied; they are framed within the consumer's credit, many frames per system call.
//!
//! # Where to look
//!
//! | topic | place |
//! | --- | --- |
//! | how much a producer may send | `operation::credit` for the window, `operation::produce` for when it grows, `operation::quota` for the rates of its project |
//! | when a message is synced | `store::log::turn` hands a round to the disk, which writes and syncs it, and acknowledges it afterwards; `shard::files` does both in one write |
//! | the meaning of an error, and its status | `base::error` |
//! | the tokens of clients | `client::tokens` obtains them, `client::session` decides when to renew, `client::renewer` does |
//! | which messages are leased or deleted | `store::claims` keeps a ledger for each partition; `operation::claim` is a worker's operation |
//! | TLS | `tls`; `shard::transport::secure` connects it to sockets, and `shard::certificates` reloads its files |
//! | a setting | a `settings!` block of the room that uses it, usually in its `settings.rs`; checks of combinations in `config::check` and `config::warn` |
//! | a metric | `control::metrics`; values are counted where they arise, and gathered in `shard::core::snapshot` |
//! | the wire format | `front::streaming`, `pb`, `ws` |
//! | who may do what | `auth` decides who a client is, `access` has grants and rules, `shard::core::authentication` applies them, `front::streaming::operations` checks them |
//!
//! The place for another protocol over WebSocket is a front next to `front::streaming`, on the same operations.
//!
//! # Glossary
//!
//! *pb*: a protobuf message on the wire. *message*: a payload in a queue. *operation*: one produce or one
//! consume. *half*: one side's WebSocket message of an operation. *spoken for*: acknowledged or refused.
//! *room*: a top-level module. *incarnation*: one life of a queue, from creation to deletion. *hop*: the way
//! of a batch from the shard of its connection to the shard that owns its partition.

// The documentation is for developers: `cargo doc --document-private-items` shows what these links name.
#![allow(rustdoc::private_intra_doc_links)]

pub mod access;
pub mod auth;
pub mod base;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod front;
pub mod latency;
pub mod load;
pub mod operation;
pub mod pb;
pub(crate) mod process;
pub(crate) mod report;
pub mod shard;
pub mod store;
pub mod tls;
pub mod ws;
