//! The rules as data. To change a rule, change only this file.

/// A room (a top-level module of `src`) and its allowed imports.
#[derive(Debug)]
pub struct Room {
    pub name: &'static str,
    /// Lower rooms, or modules of them, that the room may import.
    pub may: &'static [&'static str],
}

/// All rooms from bottom to top. A room may import only rooms before it, and only those in its list. Tests
/// inside `src` follow the same rules.
pub const ROOMS: &[Room] = &[
    Room { name: "base", may: &[] },
    Room { name: "process", may: &["base"] },
    Room { name: "ws", may: &["base"] },
    Room { name: "tls", may: &["base"] },
    Room { name: "pb", may: &["base"] },
    Room { name: "latency", may: &[] },
    Room { name: "access", may: &["base"] },
    Room { name: "auth", may: &["base", "process", "tls", "access"] },
    Room { name: "operation", may: &["base", "pb::wire", "pb::headers", "pb::delimiter", "access"] },
    Room { name: "front", may: &["base", "ws", "pb", "latency", "access", "operation"] },
    Room { name: "store", may: &["base", "process::command", "pb::headers", "access"] },
    Room {
        name: "shard",
        may: &["base", "process", "ws", "tls", "auth", "latency", "access", "operation", "front", "store"],
    },
    Room {
        name: "control",
        may: &["base", "process", "pb", "tls", "access", "auth", "latency", "store", "shard"],
    },
    Room {
        name: "client",
        may: &[
            "base",
            "process",
            "ws",
            "tls",
            "pb",
            "auth",
            "latency",
            "operation",
            "front",
            "shard::executor",
        ],
    },
    Room { name: "load", may: &["base", "process", "tls", "latency", "store", "shard", "control", "client"] },
    Room { name: "report", may: &["base", "latency", "load"] },
    Room {
        name: "config",
        may: &[
            "base",
            "process",
            "tls",
            "access",
            "auth",
            "latency",
            "operation",
            "store",
            "shard",
            "control",
        ],
    },
    Room {
        name: "cli",
        may: &[
            "base",
            "process",
            "pb",
            "latency",
            "operation",
            "store",
            "shard",
            "tls",
            "access",
            "auth",
            "control",
            "client",
            "load",
            "report",
            "config",
        ],
    },
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
    /// Modules inside it that may use them.
    pub except: &'static [&'static str],
}

/// Rules in addition to those between rooms.
pub const NEVER: &[Never] = &[
    // A planted fault may block a thread.
    Never { within: "base", paths: IO, save: &["std::thread::sleep"], except: &[] },
    // An IP address is a plain value.
    Never { within: "ws", paths: IO, save: &["std::net::Ipv6Addr"], except: &[] },
    // Only `files` reads certificates.
    Never { within: "tls", paths: IO, save: &[], except: &["tls::files"] },
    Never { within: "pb", paths: IO, save: &[], except: &[] },
    Never { within: "access", paths: IO, save: &[], except: &[] },
    // An instant is a plain value. The interval log is a file.
    Never { within: "latency", paths: IO, save: &["std::time::Instant"], except: &["latency::interval_log"] },
    Never { within: "operation", paths: IO, save: &[], except: &[] },
    Never { within: "front", paths: IO, save: &[], except: &[] },
    // The log reaches the system only through `os` and the driver. Error numbers are plain values.
    Never {
        within: "store::log",
        paths: IO,
        save: &[
            "libc::EBADMSG",
            "libc::EDQUOT",
            "libc::EILSEQ",
            "libc::EIO",
            "libc::EMFILE",
            "libc::ENODATA",
            "libc::ENOSPC",
            "libc::EROFS",
            "libc::EUCLEAN",
        ],
        except: &["store::log::os", "store::log::tests"],
    },
    Never { within: "store::memory", paths: IO, save: &[], except: &[] },
    Never {
        within: "shard::core",
        paths: IO,
        save: &["std::net::IpAddr", "std::net::Ipv6Addr", "std::net::SocketAddr"],
        except: &[],
    },
    Never { within: "shard::core", paths: &["crate::shard"], save: &["crate::shard::core"], except: &[] },
];

/// A crate that only some modules may use.
#[derive(Debug)]
pub struct Only {
    pub path: &'static str,
    pub by: &'static [&'static str],
}

pub const ONLY: &[Only] = &[
    // HTTP requests go only to control ports, and to the providers of authentication.
    Only { path: "ureq", by: &["client::control", "client::dial", "auth"] },
    // Only one room uses rdkafka, plus the load generator that talks to Kafka directly.
    Only { path: "rdkafka", by: &["store::kafka", "load::peers::kafka"] },
];
