//! The rules as data. To change a rule, change only this file.

/// A room (a top-level module of `src`) and its allowed imports.
#[derive(Debug)]
pub struct Room {
    pub name: &'static str,
    /// Lower rooms, or modules of them, that the room may import.
    pub may: &'static [&'static str],
}

/// The list of every room up to `client`, and further ones.
macro_rules! up_to_client {
    ($($more:literal),*) => {
        &[
            "base",
            "process",
            "ws",
            "pb",
            "latency",
            "access",
            "operation",
            "front",
            "store",
            "shard",
            "control",
            "client",
            $($more,)*
        ]
    };
}

/// All rooms from bottom to top. A room may import only rooms before it, and only those in its list. Tests
/// inside `src` follow the same rules.
pub const ROOMS: &[Room] = &[
    Room { name: "base", may: &[] },
    Room { name: "process", may: &["base"] },
    Room { name: "ws", may: &["base"] },
    Room { name: "pb", may: &["base"] },
    Room { name: "latency", may: &["base"] },
    Room { name: "access", may: &["base"] },
    Room { name: "operation", may: &["base", "pb::wire", "pb::delimiter", "access"] },
    Room { name: "front", may: &["base", "ws", "pb", "latency", "access", "operation"] },
    Room { name: "store", may: &["base", "process::children", "access"] },
    Room {
        name: "shard",
        may: &["base", "process", "ws", "pb", "latency", "access", "operation", "front", "store"],
    },
    Room { name: "control", may: &["base", "process", "latency", "access", "store", "shard"] },
    Room {
        name: "client",
        may: &["base", "process", "ws", "pb", "latency", "operation", "front", "shard::executor"],
    },
    Room { name: "load", may: up_to_client!() },
    Room { name: "report", may: &["base", "process", "latency", "load"] },
    Room { name: "config", may: up_to_client!("load", "report") },
    Room { name: "cli", may: up_to_client!("load", "report", "config") },
    // The binary's `main.rs`: a separate crate, which has no row in the map.
    Room { name: MAIN, may: &["cli"] },
];

/// The name of `main.rs` among the rooms.
pub const MAIN: &str = "main";

/// Paths that code without I/O must not use. `core` counts as `std`.
pub const IO: &[&str] = &[
    "std::net",
    "std::fs",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::os",
    "std::process",
    "std::thread",
    "glommio",
    "socket2",
    "rustix",
    "libc",
    "tokio",
    "ureq",
    "async",
];

/// Paths that a module and the modules inside it must not use.
#[derive(Debug)]
pub struct Never {
    pub within: &'static str,
    /// Paths in the crate (starting with `crate`) or in other crates.
    pub paths: &'static [&'static str],
    /// Exceptions among those paths.
    pub save: &'static [&'static str],
}

/// Rules in addition to those between rooms.
pub const NEVER: &[Never] = &[
    // A planted fault may block a thread.
    Never { within: "base", paths: IO, save: &["std::thread::sleep"] },
    // An IP address is a plain value.
    Never { within: "ws", paths: IO, save: &["std::net::Ipv6Addr"] },
    Never { within: "pb", paths: IO, save: &[] },
    Never { within: "access", paths: IO, save: &[] },
    Never { within: "operation", paths: IO, save: &[] },
    Never { within: "front", paths: IO, save: &[] },
    Never { within: "shard::core", paths: IO, save: &["std::net::SocketAddr"] },
    Never { within: "shard::core", paths: &["crate::shard"], save: &["crate::shard::core"] },
];

/// A crate that only some modules may use.
#[derive(Debug)]
pub struct Only {
    pub path: &'static str,
    pub by: &'static [&'static str],
}

pub const ONLY: &[Only] = &[
    // Only one room uses rdkafka, plus the load generator that talks to Kafka directly.
    Only { path: "rdkafka", by: &["store::kafka", "load::peers::kafka"] },
];
