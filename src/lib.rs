//! Millstream: a thread-per-core WebSocket queue-streaming server, its clients and its load generator.
//!
//! # The rooms
//!
//! | room | what lives there | what never does |
//! | --- | --- | --- |
//! | [`cli`] | one file for each subcommand | logic worth testing |
//! | [`config`], [`limits`] | settings and bounds, checked against each other | |
//! | [`error`] | whose fault it is, and the one map to a status | |
//! | [`names`], [`queue`], [`partitioner`], [`batch`], [`budget`], [`tenant`], [`clock`] | the words that the rooms below share | I/O |
//! | [`heap`], [`logging`] | the allocator's settings; log lines, no floods of them | |
//! | [`children`] | commands that the server runs, none of which outlives it | |
//! | [`terminal`] | what people see: escaped text, colours, lines on standard error | |
//! | [`planted`] | faults that tests may plant | |
//! | [`pb`] | prost's messages and the hand-written coders of the two hot ones | frames, operations |
//! | [`ws`] | RFC 6455 without I/O, server and client side | sockets, clocks |
//! | [`session`] | the streaming protocol without I/O, server and client side | sockets, clocks, stores |
//! | [`store`] | the `Store` trait; the embedded `log`, the memory store, and `kafka`, the only room that knows rdkafka | protocol types |
//! | [`shard`] | glommio: driver, sockets, inboxes; `shard::core` decides, without I/O | protocol decisions |
//! | [`control`] | health, metrics and the live page over HTTP, on a thread of its own | the data path |
//! | [`client`] | the session's client side on glommio | |
//! | [`load`] | the load generator on `client` | |
//! | [`latency`] | histograms of each stage, recorded on the shards, collected beside them, exported | the data path |
//! | [`report`] | what loads measured, drawn and compared | measuring |
//!
//! Arrows point one way: `limits ← ws, pb ← session ← shard → store`, and `cli → load → client → session`; `session` and
//! `store` never import each other. `load` and `cli` run on `shard`'s executors;
//! `control` and `latency` ask shards by messages; `report` reads what `load` has written.
//!
//! # The way of a message in
//!
//! 1. `shard::driver` reads a ready socket into the shard's one receive buffer.
//! 2. `shard::core::Connection` hands the bytes to `ws::Receiver`, which unmasks in place.
//! 3. `session::ServerSession` splits pbs, checks credit and limits, and copies payloads once, into an append batch.
//! 4. `shard::core` sends the batch to the partition's owner: its own store, or another shard's inbox.
//! 5. The store's completion comes back the same way and becomes one `ProduceResponse`.
//!
//! Out it is the same backwards: a fetch for each partition, parked at its owner; batches shared, not copied; framed
//! within the consumer's credit; many frames in one system call.
//!
//! # Glossary
//!
//! *pb*: a protobuf message on the wire. *message*: a payload in a queue. *operation*: one produce or one consume.
//! *half*: one side's WebSocket message of an operation. *spoken for*: acknowledged or refused. *incarnation*: one
//! life of a queue. *hop*: a batch's way from the shard of its connection to the shard that owns its partition.

pub mod batch;
pub mod budget;
pub mod children;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod error;
pub mod heap;
pub mod latency;
pub mod limits;
pub mod load;
pub mod logging;
pub mod names;
pub mod partitioner;
pub mod pb;
pub mod planted;
pub mod queue;
pub mod report;
pub mod session;
pub mod shard;
pub mod store;
pub mod tenant;
pub mod terminal;
pub mod ws;
