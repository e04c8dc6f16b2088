//! Checks that `docs/protocol.md` agrees with the code.

use std::collections::BTreeSet;
use std::fs;

use millstream::base::error::{FAILURES, StatusCode};
use millstream::base::names::ClientId;
use millstream::base::partitioner::{client_partition, key_partition};
use millstream::config::ServerConfig;
use millstream::config::table::Entry;

use super::page::{Page, in_backticks};
use super::root;

fn page() -> Page {
    Page::read("docs/protocol.md")
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap()
}

#[test]
fn sections_are_numbered_without_gaps() {
    let numbers = page().section_numbers();
    assert!(numbers.len() >= 10, "{numbers:?}");
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
}

#[test]
fn the_statuses_are_those_of_the_code() {
    let page = page();
    let section = page.section("## 3. Statuses");
    let told: BTreeSet<u32> =
        section.table("code").iter().map(|row| row[0].parse().unwrap()).filter(|code| *code >= 300).collect();
    assert_eq!(told, FAILURES.into_iter().collect());
    let successes: Vec<u32> =
        section.table("code").iter().map(|row| row[0].parse().unwrap()).filter(|code| *code < 300).collect();
    // 202 is reserved.
    assert_eq!(successes, [StatusCode::CONTINUE.0, StatusCode::CREATED.0, 202]);
}

#[test]
fn the_close_codes_are_those_of_the_code() {
    let page = page();
    let section = page.section("### Close codes");
    let told: BTreeSet<u16> = section.table("code").iter().filter_map(|row| row[0].parse().ok()).collect();
    let source = read("src/ws/mod.rs");
    let constants = source.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    let codes =
        constants.filter_map(|line| line.split_once(": Self = Self(")?.1.strip_suffix(");")?.parse().ok());
    assert_eq!(told, codes.collect());
}

#[test]
fn settings_have_the_defaults_and_ranges_of_the_code() {
    let page = page();
    let section = page.section("## 9. Settings");
    let defaults = ServerConfig::default();
    for row in section.table("setting") {
        let key = in_backticks(row[0]).unwrap();
        let entry = Entry::find(key).unwrap_or_else(|| panic!("no setting {key}"));
        let default = entry.get(&defaults);
        let told = if row[1] == "none" { "" } else { in_backticks(row[1]).unwrap() };
        assert_eq!((told, row[2]), (default.as_str(), entry.about.kind.wanted().as_str()), "{key}");
    }
}

/// A protobuf field: name, number, type.
type Field = (String, u32, String);

/// Returns the protobuf messages of `proto/streaming.proto`, each with its fields.
fn fields() -> Vec<(String, Vec<Field>)> {
    let proto = read("proto/streaming.proto");
    let mut messages: Vec<(String, Vec<_>)> = Vec::new();
    for line in proto.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["message", name, "{"] => messages.push((name.to_owned(), Vec::new())),
            // Options may follow.
            [label @ ("optional" | "repeated"), kind, name, "=", number, ..] => {
                let number = number.trim_end_matches(';').parse().unwrap();
                let kind = if label == "repeated" { format!("repeated {kind}") } else { kind.to_owned() };
                messages.last_mut().unwrap().1.push((name.to_owned(), number, kind));
            }
            _ => {}
        }
    }
    messages
}

#[test]
fn field_numbers_are_those_of_the_proto_file() {
    let page = page();
    let section = page.section("## 10. Field numbers");
    let table = section.table("protobuf message");
    let fields = fields();
    assert_eq!(table.len(), fields.len());
    for (row, (message, fields)) in table.iter().zip(&fields) {
        assert_eq!(in_backticks(row[0]), Some(message.as_str()));
        let told: Vec<&str> = row[1].split("; ").filter(|part| part.starts_with('`')).collect();
        let expected: Vec<String> =
            fields.iter().map(|(name, number, kind)| format!("`{name}` {number} {kind}")).collect();
        assert_eq!(told, expected, "{message}");
    }
}

#[test]
fn names_in_code_are_settings_of_section_9_or_fields() {
    // Query parameters.
    const OTHERS: [&str; 2] = ["project_id", "client_id"];
    let page = page();
    let section = page.section("## 9. Settings");
    let table = section.table("setting");
    let settings: BTreeSet<&str> = table.iter().filter_map(|row| in_backticks(row[0])).collect();
    let fields = fields();
    let fields: BTreeSet<&str> =
        fields.iter().flat_map(|(_, fields)| fields).map(|(name, ..)| name.as_str()).collect();
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.contains('_')
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    for name in page.code().into_iter().filter(|code| is_name(code)) {
        let is_known = settings.contains(name) || fields.contains(name) || OTHERS.contains(&name);
        assert!(is_known, "{name} is neither a setting of section 9 nor a field");
    }
}

#[test]
fn the_examples_of_hashes_are_right() {
    let page = page();
    let section = page.section("## 11. Partitions and hashes");
    for row in section.table("key or Client-ID") {
        let (kind, value) = row[0].split_once(" `").unwrap();
        let value = value.strip_suffix('`').unwrap();
        let hash = in_backticks(row[1]).and_then(|hash| hash.strip_prefix("0x")).unwrap();
        let hash = u64::from_str_radix(hash, 16).unwrap();
        for (cell, partitions) in row[2..].iter().zip([2, 4, 8]) {
            let (partition, hash) = match kind {
                "key" => (key_partition(value.as_bytes(), partitions), hash & 0x7fff_ffff),
                "Client-ID" => (client_partition(ClientId::parse(value).unwrap(), partitions), hash),
                other => panic!("{other}"),
            };
            assert_eq!(cell.parse(), Ok(partition.index()), "{value} of {partitions}");
            assert_eq!(hash % u64::from(partitions), partition.index() as u64, "the hash of {value}");
        }
    }
}

/// Bytes that went in one direction of a connection, without any in the other between them.
type Piece = (char, Vec<u8>);

/// Returns the pieces of a code block. A line is `C | 02 88 | what it means`. A line without the letter
/// continues the piece before.
fn pieces(block: &[&str]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for line in block {
        let mut cells = line.split(" | ");
        let way = cells.next().unwrap().trim();
        let bytes = cells.next().unwrap().split_whitespace().map(|hex| u8::from_str_radix(hex, 16).unwrap());
        if let Some(way) = way.chars().next() {
            pieces.push((way, Vec::new()));
        }
        pieces.last_mut().unwrap().1.extend(bytes);
    }
    pieces
}

/// Returns the bytes that a connection of a transcript sent and received after its handshake.
fn recorded(transcript: &str, connection: &str) -> Vec<Piece> {
    let piece = |line: &str| {
        let (way, rest) = line.trim().split_once(' ')?;
        let way = match way {
            "in" => 'C',
            "out" => 'S',
            _ => return None,
        };
        let (name, quoted) = rest.split_once(' ')?;
        (name == connection).then(|| (way, unescape(quoted.trim_matches('"'))))
    };
    transcript.lines().filter_map(piece).skip(2).collect()
}

/// Reverses `escape_ascii`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        bytes.push(match character {
            '\\' => match characters.next().unwrap() {
                'x' => {
                    let hex: String = characters.by_ref().take(2).collect();
                    u8::from_str_radix(&hex, 16).unwrap()
                }
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                other => u8::try_from(other).unwrap(),
            },
            other => u8::try_from(other).unwrap(),
        });
    }
    bytes
}

#[test]
fn the_worked_example_is_what_was_recorded() {
    let page = page();
    let example = page.section("## 15. A worked example");
    let transcript = read("tests/golden/transcripts/consume-markers.txt");
    for (connection, whole) in [("p1", true), ("c", false)] {
        let (told, recorded) =
            (pieces(&example.block(&format!("text {connection}"))), recorded(&transcript, connection));
        assert!(told.len() >= 6 && (!whole || told.len() == recorded.len()), "{connection}");
        for (told, recorded) in told.iter().zip(&recorded) {
            assert_eq!(told, recorded, "{connection}");
        }
    }
}
