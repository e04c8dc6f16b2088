//! Plants forbidden imports in small crates and checks that each kind is found, with file, line and chain.

use crate::source::House;
use crate::{circles, draw, judge};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of every planted crate, unless it replaces them: some rooms with an item each.
const ROOMS: [(&str, &str); 8] = [
    ("src/lib.rs", "pub mod base; pub mod client; pub mod front; pub mod shard; pub mod store; pub mod ws;"),
    ("src/base.rs", "pub struct Word; pub fn word() {}"),
    ("src/client.rs", "pub struct Client;"),
    ("src/front.rs", "pub struct Front;"),
    ("src/shard/mod.rs", "pub mod core; mod executor; pub use core::Core; pub use executor::Executor;"),
    ("src/shard/executor.rs", "pub struct Executor;"),
    ("src/store.rs", "pub struct Store; pub mod kafka { pub struct Kafka; }"),
    ("src/ws.rs", ""),
];

/// Creates a crate with the usual rooms, in which `files` replace or extend the usual files.
fn house(files: &[(&str, &str)]) -> House {
    let mut all: BTreeMap<PathBuf, String> = BTreeMap::new();
    let core = ("src/shard/core.rs", "pub struct Core;");
    for (file, text) in ROOMS.iter().chain([&core]).chain(files) {
        all.insert(PathBuf::from(file), (*text).to_owned());
    }
    let below: Vec<_> = all.keys().filter(|file| file.starts_with("src")).cloned().collect();
    House::from_files(&below, |file: &Path| all.get(file).cloned())
}

/// Returns the problems of a crate with `text` as its `ws.rs`.
fn in_ws(text: &str) -> Vec<String> {
    judge::problems(&house(&[("src/ws.rs", text)]))
}

const UP: &str = "`ws` imports `shard`, which is above it";

/// Asserts that there is exactly one problem, at this line of `ws.rs` and with this chain.
#[track_caller]
fn assert_up(text: &str, line: usize, chain: &str) {
    assert_eq!(in_ws(text), [format!("src/ws.rs:{line}: {UP}: {chain}")]);
}

#[test]
fn imports_of_lower_rooms_are_allowed() {
    let text = "//! Not `crate::shard::core::Core`.\n\
        use crate::base::{self, Word};\nuse super::base as words;\nuse core::net::Ipv6Addr;\n\
        /// Nor [`crate::shard`].\npub(in crate::ws) struct Frame(pub(super) Word, Ipv6Addr);\n\
        fn f() { base::word(); words::word(); println!(\"crate::shard {}\", size_of::<crate::base::Word>()); }\n\
        #[cfg(test)]\nmod tests { use super::*; use crate::base::word; fn g() { word(); self::super::f(); } }";
    assert!(in_ws(text).is_empty(), "{:?}", in_ws(text));
    // Of the room above only one module, also through the room's re-export.
    let client = "use crate::shard::Executor; pub struct Client;";
    assert!(judge::problems(&house(&[("src/client.rs", client)])).is_empty());
}

#[test]
fn use_declarations() {
    let core = "crate::shard::core::Core";
    assert_up("\nuse crate::shard::core::Core;", 2, &format!("`{core}` -> {core}"));
    assert_up(
        "use crate::{\n    base::Word,\n    shard::{core::{Core}},\n};",
        3,
        &format!("`{core}` -> {core}"),
    );
    assert_up("use crate::shard::core::Core as Frame;", 1, &format!("`{core}` -> {core}"));
    assert_up("use crate::shard::core::*;", 1, "`crate::shard::core::*` -> crate::shard::core");
    assert_up("pub use crate::shard::core::Core;", 1, &format!("`{core}` -> {core}"));
    assert_up("fn f() {\n    use crate::shard::core::Core;\n}", 2, &format!("`{core}` -> {core}"));
    assert_up("use crate::shard::core::{self};", 1, "`crate::shard::core` -> crate::shard::core");
}

#[test]
fn inline_paths() {
    let chain = "`crate::shard::core::Core` -> crate::shard::core::Core";
    assert_up("fn f() {\n    let _ = crate::shard::core::Core;\n}", 2, chain);
    assert_up("struct Frame {\n    core: Option<crate::shard::core::Core>,\n}", 2, chain);
    assert_up("fn f(x: u8) {\n    match x { crate::shard::core::Core => {} }\n}", 2, chain);
    assert_up("fn f<T>()\nwhere T: crate::shard::core::Core {}", 2, chain);
    assert_up("#[derive(crate::shard::core::Core)]\nstruct Frame;", 1, chain);
    assert_up("struct Frame {\n    #[serde(with = \"crate::shard::core::Core\")]\n    x: u8 }", 2, chain);
}

#[test]
fn macros() {
    let core = "crate::shard::core::Core";
    assert_up(
        "fn f() {\n    println!(\"{}\", crate::shard::core::Core);\n}",
        2,
        &format!("`{core}` -> {core}"),
    );
    assert_up(
        "macro_rules! m { () => {\n    $crate::shard::core::Core\n} }",
        2,
        &format!("`{core}` -> {core}"),
    );
    assert_up(
        "m! {\n    use crate::{base::Word,\n        shard::core::Core};\n}",
        3,
        &format!("`{core}` -> {core}"),
    );
    assert_up("m! { super::shard::core::Core }", 1, &format!("`super::shard::core::Core` -> {core}"));
    assert_up("m! { f([(crate::shard::core::Core)]) }", 1, &format!("`{core}` -> {core}"));
    // The name of a macro: one in a module, and one exported at the root.
    assert_up("crate::shard::core::m!();", 1, "`crate::shard::core::m` -> crate::shard::core::m");
    let exported = [
        ("src/shard/core.rs", "pub struct Core; #[macro_export] macro_rules! m { () => {} }"),
        ("src/ws.rs", "crate::m!();"),
    ];
    let found = judge::problems(&house(&exported));
    assert!(found.iter().any(|problem| problem.contains(UP)), "{found:?}");
}

#[test]
fn chains_of_super() {
    let core = "crate::shard::core::Core";
    let text = "mod frame {\n    use super::super::shard::core::Core;\n}";
    assert_up(text, 2, &format!("`super::super::shard::core::Core` -> {core}"));
    let text = "mod frame {\n    mod mask {\n        fn f() { self::super::super::super::shard::core::Core; }\n    }\n}";
    assert_up(text, 3, &format!("`self::super::super::super::shard::core::Core` -> {core}"));
}

#[test]
fn after_the_first_cfg_test_and_inside() {
    let core = "crate::shard::core::Core";
    assert_up("#[cfg(test)]\nmod tests {}\nuse crate::shard::core::Core;", 3, &format!("`{core}` -> {core}"));
    let found = in_ws("#[cfg(test)]\nmod tests {\n    use crate::shard::core::Core;\n}");
    assert_eq!(found, [format!("src/ws.rs:3: {UP} (test code): `{core}` -> {core}")]);
    // A file that another file declares for tests, and one outside of `src`.
    let files = [
        ("src/ws.rs", "#[cfg(all(test, unix))]\nmod tests;"),
        ("src/ws/tests.rs", "mod deep;\n#[path = \"../../tests/common/random.rs\"]\nmod random;"),
        ("src/ws/tests/deep.rs", "use crate::shard::core::Core;"),
        ("tests/common/random.rs", "use crate::shard::core::Core;"),
    ];
    assert_eq!(
        judge::problems(&house(&files)),
        [
            format!("src/ws/tests/deep.rs:1: {UP} (test code): `{core}` -> {core}"),
            format!("tests/common/random.rs:1: {UP} (test code): `{core}` -> {core}"),
        ]
    );
}

#[test]
fn detours() {
    // Through a name that an import gives to a room or to the crate.
    let text = "use super::store;\nfn f() { store::kafka::Kafka; }";
    let found = judge::problems(&house(&[("src/client.rs", text)]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].starts_with("src/client.rs:2: `client` may not use `store::kafka::Kafka`"), "{found:?}");
    let found = in_ws("use crate as house;\nfn f() { house::shard::core::Core; }");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("imports the crate's root") && found[1].contains(UP), "{found:?}");
    let lib = format!("extern crate self as me; {}", ROOMS[0].1);
    let found = judge::problems(&house(&[("src/lib.rs", &lib), ("src/ws.rs", "use me::shard::core::Core;")]));
    assert!(found.len() == 1 && found[0].contains(UP), "{found:?}");
    // Through a re-export in a lower room, and through one in the same room.
    let found = judge::problems(&house(&[
        ("src/base.rs", "pub use crate::shard::core::Core as Word;"),
        ("src/ws.rs", "use crate::base::*;\nfn f() -> Word { Word::new() }"),
    ]));
    assert!(found[0].starts_with("src/base.rs:1: `base` imports `shard`"), "{found:?}");
    assert_eq!(
        found[1],
        format!(
            "src/ws.rs:2: {UP}: `Word::new` -> crate::ws::Word -> crate::base::Word -> crate::shard::core::Core"
        )
    );
    let found = judge::problems(&house(&[("src/client.rs", "use crate::shard::Core;")]));
    assert_eq!(
        found,
        ["src/client.rs:1: `client` may not use `shard::core::Core`: \
          `crate::shard::Core` -> crate::shard::Core -> crate::shard::core::Core"]
    );
}

#[test]
fn inputs_and_outputs() {
    let cases = [
        ("use core::net::TcpStream;", "std::net"),
        ("use std::{io, net::SocketAddr};", "std::net"),
        ("use ::core::net as addresses;", "std::net"),
        ("use std::time::*;", "std::time::Instant"),
        ("use std as s; fn f() { s::fs::read(x); }", "std::fs"),
        ("use std::time; fn f() { time::SystemTime::now(); }", "std::time::SystemTime"),
        ("fn f() { let x: std::time::Instant; }", "std::time::Instant"),
        ("#[cfg(test)] mod tests {} fn f() { println!(\"{}\", std::fs::read(x)) }", "std::fs"),
        ("use glommio;", "glommio"),
        ("extern crate socket2;", "socket2"),
        ("#[cfg(test)] mod tests {} async fn f() {}", "async"),
        ("fn f() { g(async { 1 }); }", "async"),
        ("fn f() { m!(async move {}) }", "async"),
    ];
    for (text, what) in cases {
        let found = in_ws(text);
        assert!(!found.is_empty(), "{text}");
        let expected = format!("src/ws.rs:1: `ws` must not use `{what}`");
        assert!(found.iter().any(|problem| problem.starts_with(&expected)), "{text}: {found:?}");
    }
    let found = judge::problems(&house(&[
        ("src/base.rs", "pub use std::net::TcpStream as Word;"),
        ("src/ws.rs", "use crate::base::Word;"),
    ]));
    let laundered = "src/ws.rs:1: `ws` must not use `std::net`: `crate::base::Word` -> crate::base::Word -> std::net::TcpStream";
    assert!(found.iter().any(|problem| problem == laundered), "{found:?}");
    // The same in a room that may do I/O.
    assert!(judge::problems(&house(&[("src/store.rs", "use std::fs; async fn f() {}")])).is_empty());
}

#[test]
fn crates_for_one_room_and_paths_forbidden_to_one_room() {
    let found = judge::problems(&house(&[("src/front.rs", "use rdkafka::Message;")]));
    assert!(found.len() == 1 && found[0].contains("may use `rdkafka`"), "{found:?}");
    let kafka = "pub mod kafka { use rdkafka::Message; }";
    assert!(judge::problems(&house(&[("src/store.rs", kafka)])).is_empty());
    let found =
        judge::problems(&house(&[("src/shard/core.rs", "pub struct Core;\nuse super::executor::Executor;")]));
    assert!(
        found.len() == 1
            && found[0].starts_with("src/shard/core.rs:2: `shard::core` must not use `crate::shard`"),
        "{found:?}"
    );
}

#[test]
fn entries_that_nothing_needs() {
    let files = [
        ("src/client.rs", "use crate::shard::Executor; pub struct Client;"),
        ("src/base.rs", "pub struct Word; fn f() { std::thread::sleep(x) }"),
        ("src/store.rs", "pub mod kafka { use rdkafka::Message; }"),
    ];
    let (empty, full) = (judge::unused(&house(&[])), judge::unused(&house(&files)));
    for entry in [
        "`client` does not import `shard::executor`",
        "`base` does not use `std::thread::sleep`",
        "`store::kafka` does not use `rdkafka`",
    ] {
        let is_in = |unused: &[String]| unused.iter().any(|unused| unused == entry);
        assert!(is_in(&empty) && !is_in(&full), "{entry}");
    }
    let exempt = "`store::log::os` needs no exemption within `store::log`";
    assert!(empty.iter().any(|unused| unused == exempt), "{empty:?}");
}

#[test]
fn undeclared_files_and_rooms_missing_in_the_table() {
    let found = judge::problems(&house(&[("src/ws/lost.rs", "use crate::shard;")]));
    assert_eq!(found, ["src/ws/lost.rs: no `mod` reaches the file"]);
    let lib = format!("{} pub mod attic;", ROOMS[0].1);
    let found = judge::problems(&house(&[("src/lib.rs", &lib), ("src/attic.rs", "use crate::base::Word;")]));
    assert_eq!(
        found,
        ["src/attic.rs:1: `attic` is not a room of the table: `crate::base::Word` -> crate::base::Word"]
    );
    // The binary is a separate crate.
    let found = judge::problems(&house(&[("src/main.rs", "fn main() { millstream::shard::core::run() }")]));
    assert!(found.len() == 1 && found[0].contains("`main` may not use `shard::core::run`"), "{found:?}");
}

#[test]
fn circles_among_siblings() {
    let circle = |frame: &str, mask: &str, module: &str| {
        let text = format!(
            "{module}\nmod frame {{ pub struct Frame; {frame} }}\nmod mask {{ pub struct Mask; {mask} }}"
        );
        circles::among_siblings(&house(&[("src/ws.rs", &text)]))
    };
    let there = "ws: frame -> mask (src/ws.rs:2), mask -> frame (src/ws.rs:3)";
    assert_eq!(circle("use super::mask::Mask;", "use super::frame::Frame;", ""), [there]);
    // Through the parent's re-export, and from a nested module.
    assert_eq!(
        circle("use super::Mask;", "mod deep { fn f() { crate::ws::frame::Frame; } }", "pub use mask::Mask;"),
        [there]
    );
    // In one direction only, from a test, or through what the parent defines.
    assert!(circle("use super::mask::Mask;", "", "").is_empty());
    assert!(
        circle("use super::mask::Mask;", "#[cfg(test)] mod tests { use crate::ws::frame::Frame; }", "")
            .is_empty()
    );
    assert!(
        circle("use super::Head;", "use super::Head;", "struct Head(frame::Frame, mask::Mask);").is_empty()
    );
}

#[test]
fn a_drawing() {
    let drawing = draw::Drawing::of(&house(&[
        (
            "src/ws.rs",
            "use crate::base::Word; use crate::shard::core::Core; fn f() -> Word { crate::base::word() }",
        ),
        ("src/shard/core.rs", "use crate::ws::Frame; pub struct Core;"),
    ]));
    let text = drawing.text();
    assert!(text.contains("ws -> base 2, shard 1 (UP)\n"), "{text}");
    assert!(text.ends_with("CIRCLE: shard, ws\n"), "{text}");
    assert!(drawing.dot().contains("\"ws\" -> \"shard\" [label=1, color=red"), "{}", drawing.dot());
}
