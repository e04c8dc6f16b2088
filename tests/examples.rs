//! Runs the shell examples of README.md and of `docs/` as they are written.
//!
//! The `sh` fences of a document run in order, in one shell with `set -e -o pipefail`. All other fences are
//! ignored. Each document has:
//!
//! - an empty directory, with links to the files of the tree;
//! - a network with only the loopback interface, where every port of 127.0.0.1 is free;
//! - `millstream` on its `PATH`, and a `cargo` that runs it in place of `cargo run`.
//!
//! After the last fence, the test kills the commands that still run in the background.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/place.rs"]
mod place;
#[path = "common/surroundings.rs"]
mod surroundings;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use place::Place;
use rustix::process::{Pid, Signal, kill_process_group};
use surroundings::give_network;

const BINARY: &str = env!("CARGO_BIN_EXE_millstream");

/// The time limit for the examples of one document.
const LIMIT: Duration = Duration::from_secs(120);

/// The most lines of output in a report; the last ones are shown.
const SHOWN: usize = 40;

/// Info strings that a writer may take for `sh`. The test refuses them, because such a fence would not run.
const MISTAKEN: [&str; 5] = ["bash", "shell", "zsh", "console", "shell-session"];

/// The `cargo` of the examples. It builds nothing, because `BINARY` is already built.
const CARGO: &str = r#"#!/bin/sh
case "$1" in
  build|test) ;;
  run)
    while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
    [ $# -eq 0 ] || shift
    exec millstream "$@" ;;
  *) echo "examples: cargo $1 is not for examples" >&2; exit 2 ;;
esac
"#;

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the script of a document's examples, or `None` if it has none. The script has one line for each
/// line of the document, so that the shell reports the document's line numbers.
fn script(name: &str, text: &str) -> Result<Option<String>, String> {
    let (mut script, mut fence, mut count) = (String::new(), None, 0);
    for (at, line) in text.lines().enumerate() {
        let info = line.trim().strip_prefix("```").map(str::trim);
        match (fence, info) {
            (None, Some(info)) if MISTAKEN.contains(&info) => {
                return Err(format!("{name}:{}: a fence says `{info}`; only `sh` is run", at + 1));
            }
            (None, Some(info)) => {
                fence = Some(info);
                count += usize::from(info == "sh");
            }
            (Some(_), Some("")) => fence = None,
            (Some("sh"), _) => script.push_str(line),
            _ => {}
        }
        script.push('\n');
    }
    if fence.is_some() {
        Err(format!("{name}: a fence has no end"))
    } else {
        Ok((count > 0).then_some(script))
    }
}

/// Creates the directory in which a document's examples run, and returns it.
fn working_directory(place: &Place) -> PathBuf {
    let (work, bin) = (place.0.join("work"), place.0.join("bin"));
    for directory in [&bin, &work.join("target/release"), &work.join("target/debug")] {
        fs::create_dir_all(directory).unwrap();
        symlink(BINARY, directory.join("millstream")).unwrap();
    }
    fs::write(bin.join("cargo"), CARGO).unwrap();
    fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(tree()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if ![".git", "target", "millstream-data"].iter().any(|other| name == *other) {
            symlink(entry.path(), work.join(name)).unwrap();
        }
    }
    work
}

/// Runs the examples of a document. An error names the document, the line and the command.
fn run(name: &str, text: &str, limit: Duration) -> Result<(), String> {
    let Some(script) = script(name, text)? else { return Ok(()) };
    let place = Place::new(&format!("examples-{}", name.replace('/', "-")));
    let work = working_directory(&place);
    let [file, before, at, output] = ["script", "before", "line", "output"].map(|name| place.0.join(name));
    fs::write(&file, script).unwrap();
    // The traps are only for this shell, not for scripts that the examples call. In the EXIT trap, the line
    // is 1, where no example can be.
    let traps = format!(
        "unset BASH_ENV\n\
         trap '[ $LINENO = 1 ] || echo $LINENO >\"{}\"' DEBUG\n\
         trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n",
        at.display()
    );
    fs::write(&before, traps).unwrap();
    let said = File::create(&output).unwrap();
    let mut command = Command::new("bash");
    let path = format!("{}:{}", place.0.join("bin").display(), std::env::var("PATH").unwrap());
    command.args(["--norc", "-e", "-o", "pipefail"]).arg(&file).current_dir(&work).process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"MILLSTREAM_")) {
        command.env_remove(name);
    }
    command.env("PATH", path).env("BASH_ENV", &before).env("HOME", &work);
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
    give_network(&mut command);
    let ended = end(command, limit);
    let why = match ended {
        Some(status) if status.success() => return Ok(()),
        Some(status) => format!("{status}"),
        None => format!("not done after {limit:?}"),
    };
    let line: usize = fs::read_to_string(&at).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    let what = text.lines().nth(line - 1).unwrap_or_default();
    let said = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
    let said: Vec<&str> = said.lines().collect();
    let said = said[said.len().saturating_sub(SHOWN)..].join("\n");
    Err(format!("{name}:{line}: {what}\n{why}\n{said}"))
}

/// Waits for a command to end, and kills the processes that it has left behind. Returns `None` if the command
/// takes longer than `limit`.
fn end(mut command: Command, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    let mut child = command.spawn().unwrap();
    let group = Pid::from_child(&child);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if begin.elapsed() > limit => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    // Fails if no process is left.
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().unwrap();
    status
}

/// Returns the paths of the documents, README.md first.
fn documents() -> Vec<PathBuf> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![tree().join("README.md")];
    collect(&tree().join("docs"), &mut found);
    found
}

#[test]
fn every_example_works_as_written() {
    let mut problems = Vec::new();
    for path in documents() {
        let name = path.strip_prefix(tree()).unwrap().to_str().unwrap().to_owned();
        let begin = Instant::now();
        let result = run(&name, &fs::read_to_string(&path).unwrap(), LIMIT);
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f32());
        problems.extend(result.err());
    }
    assert!(problems.is_empty(), "{} documents fail:\n{}", problems.len(), problems.join("\n\n"));
}

#[test]
fn the_readme_has_examples() {
    let readme = fs::read_to_string(tree().join("README.md")).unwrap();
    assert!(script("README.md", &readme).unwrap().is_some());
}

/// Runs the examples of a document that consists of these lines.
fn try_out(name: &str, lines: &[&str], limit: Duration) -> Result<(), String> {
    run(&format!("planted-{name}"), &lines.join("\n"), limit)
}

#[test]
fn a_command_that_fails_is_named() {
    let lines = ["Text.", "```text", "false", "```", "```sh", "true", "", "ls no-such-file", "true", "```"];
    let why = try_out("fails", &lines, LIMIT).unwrap_err();
    assert!(why.starts_with("planted-fails:8: ls no-such-file\nexit status: 2\n"), "{why}");
}

#[test]
fn a_pipe_fails_with_its_first_command() {
    let why = try_out("pipe", &["```sh", "false | cat", "```"], LIMIT).unwrap_err();
    assert!(why.starts_with("planted-pipe:2: false | cat\nexit status: 1\n"), "{why}");
}

#[test]
fn a_command_that_hangs_is_named() {
    let lines = ["```sh", "sleep 1000 &", "sleep 2000", "```"];
    let begin = Instant::now();
    let why = try_out("hangs", &lines, Duration::from_secs(1)).unwrap_err();
    assert!(why.starts_with("planted-hangs:3: sleep 2000\nnot done after 1s"), "{why}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_fence_that_looks_like_sh_is_refused() {
    let why = try_out("bash", &["", "```bash", "true", "```"], LIMIT).unwrap_err();
    assert_eq!(why, "planted-bash:2: a fence says `bash`; only `sh` is run");
    let why = try_out("endless", &["```sh", "true"], LIMIT).unwrap_err();
    assert_eq!(why, "planted-endless: a fence has no end");
}

/// Runs two documents at once that use the same port. A later fence uses the server of an earlier one.
#[test]
fn each_document_has_ports_and_a_shell_of_its_own() {
    let lines = [
        "```sh",
        "cargo run --release -- serve --store memory &",
        "kind=one",
        "```",
        "Text.",
        "```sh",
        "echo $kind | millstream produce greetings",
        "test \"$(millstream consume greetings --count 1)\" = one",
        "test -e Cargo.toml && test ! -e millstream-data",
        "```",
    ];
    std::thread::scope(|scope| {
        let both = ["first", "second"].map(|name| scope.spawn(move || try_out(name, &lines, LIMIT)));
        for one in both {
            one.join().unwrap().unwrap();
        }
    });
}
