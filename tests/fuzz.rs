//! Runs the fuzz targets' bodies on their committed corpora, so that past findings stay fixed.
//!
//! `perf/fuzz` runs the fuzzers themselves.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "fuzz/bodies.rs"]
mod bodies;
#[path = "fuzz/documents.rs"]
mod documents;
#[path = "fuzz/stored.rs"]
mod stored;

#[path = "common/random.rs"]
mod random;

use random::Random;

/// Runs a body on its corpus, and on random changes to its inputs: `MILLSTREAM_MUTATIONS` of them (default
/// 500).
fn run_mutated(target: &str, body: fn(&[u8])) {
    run(target, body);
    let corpus = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for entry in std::fs::read_dir(&corpus).unwrap() {
        inputs.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    inputs.sort();
    let count =
        std::env::var("MILLSTREAM_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(500);
    for seed in 0..count {
        let mut random = Random(seed);
        let mut data = inputs[random.below(inputs.len())].clone();
        for _ in 0..random.between(1, 8) {
            if data.is_empty() {
                break;
            }
            let at = random.below(data.len());
            match random.below(5) {
                0 => data[at] ^= 1 << random.below(8),
                1 => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                2 => data.truncate(at),
                3 => {
                    let end = (at + 8).min(data.len());
                    let word = [[0; 8], [0xff; 8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]][random.below(3)];
                    data[at..end].copy_from_slice(&word[..end - at]);
                }
                _ => {
                    let end = (at + random.between(1, 200)).min(data.len());
                    let part = data[at..end].to_vec();
                    let to = random.below(data.len());
                    data.splice(to..to, part);
                }
            }
        }
        if std::panic::catch_unwind(|| body(&data)).is_err() {
            panic!("{target} fails on seed {seed}: {data:02x?}");
        }
    }
}

fn run(target: &str, body: fn(&[u8])) {
    let corpus = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| body(&data)).is_err() {
            panic!("{target} fails on {}", path.display());
        }
        inputs += 1;
    }
    assert!(inputs >= 3, "{corpus} holds {inputs} inputs");
}

#[test]
fn frames() {
    run("frames", bodies::frames);
}

#[test]
fn handshake() {
    run("handshake", bodies::handshake);
}

#[test]
fn tls() {
    run_mutated("tls", bodies::tls);
}

#[test]
fn proxy() {
    run_mutated("proxy", bodies::proxy);
}

#[test]
fn jwt() {
    run_mutated("jwt", bodies::jwt);
}

#[test]
fn rules() {
    run_mutated("rules", bodies::rules);
}

#[test]
fn delimiter() {
    run("delimiter", bodies::delimiter);
}

#[test]
fn pbs() {
    run("pbs", bodies::pbs);
}

#[test]
fn claims() {
    run_mutated("claims", bodies::claims);
}

#[test]
fn session() {
    run_mutated("session", bodies::session);
}

#[test]
fn marker() {
    run("marker", bodies::marker);
}

#[test]
fn segment() {
    run_mutated("segment", stored::segment);
}

#[test]
fn index() {
    run_mutated("index", stored::index);
}

#[test]
fn catalogue() {
    run_mutated("catalogue", stored::catalogue);
}

#[test]
fn notes() {
    run_mutated("notes", stored::notes);
}

#[test]
fn packed() {
    run_mutated("packed", stored::packed);
}

#[test]
fn zaqar() {
    run_mutated("zaqar", documents::zaqar);
}
