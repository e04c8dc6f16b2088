//! Transcripts of tests: all bytes that go into and come out of the code under test.
//!
//! If `TESTS_TRANSCRIPTS` names a directory, each test writes `<directory>/<suite>/<test>`. Two versions of
//! the server behave the same if `diff -r` finds no difference between their directories. Tests generate
//! random cases, so a comparison needs `PROPTEST_RNG_SEED`. libtest names a thread after its test only if it
//! uses more than one thread.
#![allow(dead_code)]

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Longer byte strings are written as their first bytes, their length and their hash.
const WHOLE_BYTES_MAX: usize = 1024;
const BEGINNING_BYTES: usize = 32;

thread_local! {
    static FILE: RefCell<Option<BufWriter<File>>> = const { RefCell::new(None) };
}

/// Writes a line to the transcript of this thread's test, if transcripts are enabled. `line` is called only
/// then.
pub fn line<L: Display>(suite: &str, line: impl FnOnce() -> L) {
    let Some(directory) = std::env::var_os("TESTS_TRANSCRIPTS") else { return };
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| open(&Path::new(&directory).join(suite)));
        writeln!(file, "{}", line()).unwrap();
    });
}

/// Writes bytes that were sent on a connection in the direction `way`.
pub fn bytes(suite: &str, way: &str, connection: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        line(suite, || format!("{way} {connection} {}", shown(bytes)));
    }
}

fn open(directory: &Path) -> BufWriter<File> {
    let thread = std::thread::current();
    let test = thread.name().unwrap();
    assert_ne!(test, "main", "a transcript needs --test-threads 2 or more");
    fs::create_dir_all(directory).unwrap();
    BufWriter::new(File::create(directory.join(test.replace("::", "."))).unwrap())
}

/// Returns bytes as hexadecimal digits. Long byte strings are abbreviated to the first bytes, the length and
/// the hash.
pub fn shown(bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if bytes.len() <= WHOLE_BYTES_MAX {
        return hex(bytes);
    }
    format!("{}... {} bytes, hash {:016x}", hex(&bytes[..BEGINNING_BYTES]), bytes.len(), hash(bytes))
}

/// Returns the FNV-1a hash, which does not depend on the version of Rust.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
