//! Millstream: a thread-per-core WebSocket queue-streaming server, its clients and its load generator.
//!
//! # The rooms
//!
//! From the bottom to the top. A room imports rooms further up in this table alone, and not all of them: `tests/house/rules.rs` has
//! the list for each, and that test proves it.
//!
//! | room | what lives there | what never does |
//! | --- | --- | --- |
//! | [`base`] | the words that all rooms share: names, queues, batches, clock, faults, limits, budget, settings | I/O |
//! | [`process`] | the allocator's settings, log lines, the terminal, commands that the server runs, the end at a panic | |
//! | [`ws`] | RFC 6455, server and client side | I/O, projects, queues |
//! | [`pb`] | protobuf messages, where one ends, and the hand-written coders of the two hot ones | I/O, frames, operations |
//! | [`latency`] | histograms of each stage, recorded, merged and exported | shards, sockets |
//! | [`access`] | projects, what they use, and their limits | I/O |
//! | [`operation`] | produce and consume on the server's side: fates, windows, cursors, positions, credit | I/O, protocols |
//! | [`front`] | how a client speaks: the streaming protocol, the echo | I/O, stores |
//! | [`store`] | the `Store` trait; the embedded `log`, the memory store, and `kafka`, the server's only room that knows rdkafka | protocols |
//! | [`shard`] | glommio: turns, sockets, inboxes; `shard::core` decides, without I/O | protocol decisions |
//! | [`control`] | health, metrics and the live page over HTTP, on a thread of its own | the data path |
//! | [`client`] | the client's side of the streaming protocol, and its connection on glommio | stores |
//! | [`load`] | the load generator on `client` | |
//! | [`report`] | what loads measured, drawn and compared | measuring |
//! | [`config`] | the settings of all rooms, composed and checked; each room declares its own (`settings!`) | knowing how one works |
//! | [`cli`] | one file for each subcommand | logic worth testing |
//!
//! # The way of a message in
//!
//! 1. `shard::turn` reads a ready connection's transport into the shard's one receive buffer.
//! 2. `shard::core::Connection` hands the bytes to `ws::Receiver`, which unmasks in place.
//! 3. `front::streaming` splits pbs; `operation::produce` checks credit and limits, and copies payloads once, into an append batch.
//! 4. `shard::core` sends the batch to the partition's owner: its own store, or another shard's inbox.
//! 5. The store's completion comes back the same way and becomes one `ProduceResponse`.
//!
//! Out it is the same backwards: a fetch for each partition, parked at its owner; batches shared, not copied; framed
//! within the consumer's credit; many frames in one system call.
//!
//! # Where to look
//!
//! | you look for | it is in |
//! | --- | --- |
//! | how much a producer may send | `operation::credit` for the window, `operation::produce` for when it is raised, `operation::quota` for its project's rates |
//! | when a message is synced | `store::log::turn` gives a round to the disk, written and synced, and acknowledges it afterwards; `shard::files` does both in one write |
//! | what an error means, and its status | `base::error` |
//! | a setting | a `settings!` of the room that obeys it, mostly in its `settings.rs`; combinations in `config::check` and `config::warn` |
//! | a metric | `control::metrics`; what it counts is counted where it happens, and gathered in `shard::core::snapshot` |
//! | what the wire looks like | `front::streaming`, `pb`, `ws` |
//!
//! What is to come has its place: TLS is a transport in `shard::transport`; authentication gives its verdict to
//! `shard::core::admission`, on what `front::identity` has read, and its rules are in `access`; another protocol over WebSocket is a front beside
//! `front::streaming`, on the same operations; claims are records of a partition's state in `store`, and a kind of
//! operation in `operation`.
//!
//! # Glossary
//!
//! *pb*: a protobuf message on the wire. *message*: a payload in a queue. *operation*: one produce or one consume.
//! *half*: one side's WebSocket message of an operation. *spoken for*: acknowledged or refused. *incarnation*: one
//! life of a queue. *hop*: a batch's way from the shard of its connection to the shard that owns its partition.

// The documentation is for developers: `cargo doc --document-private-items` shows what these links name.
#![allow(rustdoc::private_intra_doc_links)]

pub mod access;
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
pub mod ws;
