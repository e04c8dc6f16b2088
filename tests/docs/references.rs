//! Checks that sources refer only to sections of `docs/protocol.md` that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::page::Page;
use super::root;

/// The directories to search for references. Some may be missing.
const PLACES: [&str; 7] = ["src", "tests", "benches", "proto", "clients", "docs", "perf"];

/// The words that begin or continue a comment.
const COMMENT_MARKS: [&str; 4] = ["//", "///", "//!", "#"];

/// Returns the sections of the protocol that a source names: "protocol section 3", "the protocol's sections 2
/// to 6", "protocol 3", "section 6 of the protocol", "sections 1 and 8 of the protocol". A reference may
/// continue on the next line.
fn references(source: &str) -> Vec<u32> {
    let words: Vec<&str> = source.split_whitespace().filter(|word| !COMMENT_MARKS.contains(word)).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let after = &words[at + 1..];
        if is_protocol(word) {
            let is_section = after.first().is_some_and(|next| is_section_word(next));
            found.extend(numbers(if is_section { &after[1..] } else { after }).0);
        } else if is_section_word(word) {
            let (sections, length) = numbers(after);
            if let Some(["of", "the", of]) = after.get(length..length + 3)
                && is_protocol(of)
            {
                found.extend(sections);
            }
        }
    }
    found
}

fn is_protocol(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let name = word.rsplit('/').next().unwrap();
    matches!(name, "protocol" | "protocol's" | "protocol.md" | "protocol.md's")
}

fn is_section_word(word: &str) -> bool {
    matches!(word.trim_start_matches('('), "section" | "sections" | "Section" | "Sections")
}

/// Returns the numbers of a list like "2 to 6" or "1, 3 and 8", and how many words it has. The end of a
/// sentence ends the list.
fn numbers(words: &[&str]) -> (Vec<u32>, usize) {
    let (mut found, mut length) = (Vec::new(), 0);
    for word in words {
        let is_joint = !found.is_empty() && matches!(*word, "and" | "or" | "to");
        let digits = word.trim_end_matches(|c: char| c.is_ascii_punctuation());
        match digits.parse() {
            Ok(number) => found.push(number),
            Err(_) if is_joint => {}
            Err(_) => break,
        }
        length += 1;
        if !is_joint && word.len() > digits.len() && !word.ends_with(',') {
            break;
        }
    }
    (found, length)
}

fn visit(path: &Path, each: &mut impl FnMut(&Path, &str)) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            visit(&entry.unwrap().path(), each);
        }
    } else if let Ok(text) = fs::read_to_string(path) {
        each(path, &text);
    }
}

#[test]
fn sections_of_the_protocol_that_sources_name_exist() {
    let sections: BTreeSet<u32> = Page::read("docs/protocol.md").section_numbers().into_iter().collect();
    let (mut count, mut unknown) = (0, Vec::new());
    for place in PLACES {
        let place = root(place);
        if !place.exists() {
            continue;
        }
        visit(&place, &mut |path, text| {
            // Test inputs and recordings are not prose. The examples below are not references.
            if ["fuzz/corpus", "golden", "tests/docs"]
                .iter()
                .any(|part| path.to_string_lossy().contains(part))
            {
                return;
            }
            for section in references(text) {
                count += 1;
                if !sections.contains(&section) {
                    unknown.push(format!("{}: section {section}", path.display()));
                }
            }
        });
    }
    assert!(unknown.is_empty(), "docs/protocol.md does not have\n{}", unknown.join("\n"));
    assert!(count >= 20, "only {count} references found");
}

#[test]
fn every_form_of_a_reference_is_found() {
    for (text, sections) in [
        ("(protocol section 3).", vec![3]),
        ("as the protocol's section 3 says", vec![3]),
        ("(protocol sections 2 to 6).", vec![2, 6]),
        ("(protocol sections 1 and 8). Two", vec![1, 8]),
        ("protocol sections 1, 3 and 12", vec![1, 3, 12]),
        ("section 1 of the protocol: handshakes", vec![1]),
        ("sections 1 and 6 of the protocol", vec![1, 6]),
        ("//! agree (protocol\n//! section 7). 8 bytes", vec![7]),
        ("protocol 6", vec![6]),
        ("docs/protocol.md, section 6", vec![6]),
        ("RFC 6455 section 5.2, a protocol", vec![]),
        ("the protocol is what 3 clients speak", vec![]),
    ] {
        assert_eq!(references(text), sections, "{text}");
    }
}
