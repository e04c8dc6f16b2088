//! The fuzz targets' bodies on their committed corpora: what fuzzing has found once stays found.
//!
//! `perf/fuzz` runs the fuzzers themselves.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "fuzz/bodies.rs"]
mod bodies;

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
fn delimiter() {
    run("delimiter", bodies::delimiter);
}

#[test]
fn pbs() {
    run("pbs", bodies::pbs);
}

#[test]
fn session() {
    run("session", bodies::session);
}

#[test]
fn marker() {
    run("marker", bodies::marker);
}
