//! Tests authentication with the real server and the real clients: tokens of a file, rules, changes of the file, and
//! that no token is shown anywhere.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "common/place.rs"]
mod place;

use std::fs;
use std::process::{Command, Output, Stdio};

use common::{BINARY, Server, eventually, feed};
use place::Place;

/// A part of every token. Nothing may show it.
const CANARY: &str = "canary-8c1f";

/// A server with a file of tokens, and the clients' files.
struct Guarded {
    server: Server,
    place: Place,
}

/// Returns the digest of a token, as the file lists it.
fn digest(token: &str) -> String {
    let hashed = millstream::auth::token::Digest::of(token);
    hashed.to_string()
}

fn token(name: &str) -> String {
    format!("ms_{CANARY}-{name}")
}

impl Guarded {
    /// Starts a server. Each of `lines` is a name, and its projects and rules.
    fn start(test: &str, lines: &[(&str, &str)]) -> Self {
        let place = Place::new(&format!("auth-{test}"));
        for (name, _) in lines {
            fs::write(place.0.join(name), token(name) + "\n").unwrap();
        }
        fs::write(place.0.join("tokens"), text(lines)).unwrap();
        let file = place.0.join("tokens");
        let server = Server::start(&[
            "--cores",
            "0-1",
            "--auth",
            "static",
            "--auth-static-file",
            file.to_str().unwrap(),
        ]);
        Self { server, place }
    }

    fn rewrite(&self, content: &str) {
        fs::write(self.place.0.join("new"), content).unwrap();
        fs::rename(self.place.0.join("new"), self.place.0.join("tokens")).unwrap();
    }

    /// Returns a client's command with the token of this name.
    fn run(&self, arguments: &[&str], name: &str) -> Command {
        let mut command = self.server.run(arguments);
        command.arg("--token-file").arg(self.place.0.join(name));
        command
    }

    fn produce(&self, queue: &str, name: &str) -> Output {
        feed(self.run(&["produce", queue, "--retries", "0"], name), b"one\n")
    }

    /// Fails if a token is shown.
    fn check_nothing_is_shown(&self, outputs: &[&Output]) {
        for page in ["/metrics", "/info", "/queues", "/connections", "/latency"] {
            let (_, content) = self.server.control(page);
            assert!(!content.contains(CANARY), "{page} shows a token");
        }
        for line in self.server.log() {
            assert!(!line.contains(CANARY), "the log shows a token");
        }
        for output in outputs {
            let said = [&output.stdout[..], &output.stderr].concat();
            assert!(!String::from_utf8_lossy(&said).contains(CANARY), "a client shows its token");
        }
    }
}

fn text(lines: &[(&str, &str)]) -> String {
    lines.iter().map(|(name, rest)| format!("{name} {} {rest}\n", digest(&token(name)))).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_client_does_what_its_rules_allow_and_nothing_else() {
    let guarded = Guarded::start(
        "rules",
        &[("app", "shop produce,consume:orders*"), ("reader", "shop,other consume:*")],
    );
    let produced = guarded.produce("orders-1", "app");
    assert!(produced.status.success(), "{}", said(&produced));
    let consumed = guarded
        .run(&["consume", "orders-1", "--count", "1", "--project", "shop"], "reader")
        .output()
        .unwrap();
    assert_eq!((said(&consumed), &consumed.stdout[..]), (said(&consumed), &b"one\n"[..]));
    let elsewhere = guarded.produce("invoices", "app");
    assert!(!elsewhere.status.success() && said(&elsewhere).contains("403"), "{}", said(&elsewhere));
    let several = guarded.run(&["consume", "orders-1", "--count", "1"], "reader").output().unwrap();
    assert!(said(&several).contains("400") && said(&several).contains("X-Project-Id"), "{}", said(&several));
    let foreign =
        guarded.run(&["consume", "q", "--count", "1", "--project", "foreign"], "app").output().unwrap();
    assert!(said(&foreign).contains("403"), "{}", said(&foreign));
    let stranger = feed(guarded.server.run(&["produce", "orders-1", "--retries", "0"]), b"one\n");
    assert!(said(&stranger).contains("401"), "{}", said(&stranger));
    assert_eq!(guarded.server.metric("millstream_auth_operations_forbidden_total{"), 1);
    assert!(guarded.server.log().iter().any(|line| line.contains("static:app") && line.contains("orders-1")));
    guarded.check_nothing_is_shown(&[&produced, &consumed, &elsewhere, &several, &foreign, &stranger]);
}

#[test]
fn a_changed_file_reaches_open_operations() {
    let reader = ("reader", "shop consume:*");
    let guarded = Guarded::start("reload", &[("app", "shop all:*"), reader]);
    assert!(guarded.produce("q", "app").status.success());
    let begin = |name| {
        let mut command = guarded.run(&["consume", "q", "--retries", "0"], name);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (forbidden, removed) = (begin("app"), begin("reader"));
    let consuming = "millstream_operations{kind=\"consume\"";
    eventually("two consumers", || (guarded.server.metric(consuming) == 2).then_some(()));
    // The last line has no line break: the file may be half written.
    guarded.rewrite(text(&[reader]).trim_end());
    let failed = "millstream_auth_reloads_total{result=\"failed\"";
    eventually("the refusal of the file", || (guarded.server.metric(failed) > 0).then_some(()));
    assert_eq!(guarded.server.metric(consuming), 2, "the old tokens and rules stay");
    guarded.rewrite(&text(&[("app", "shop produce:*")]));
    let forbidden = forbidden.wait_with_output().unwrap();
    assert!(said(&forbidden).contains("403"), "{}", said(&forbidden));
    let removed = removed.wait_with_output().unwrap();
    assert!(said(&removed).contains("401") || said(&removed).contains("1008"), "{}", said(&removed));
    assert!(guarded.produce("q", "app").status.success(), "what is still allowed goes on");
    guarded.rewrite("# nobody\n");
    guarded.server.wait_for_log("lists nobody");
    let last = guarded.produce("q", "app");
    assert!(said(&last).contains("401"), "the last token can be withdrawn: {}", said(&last));
    guarded.check_nothing_is_shown(&[&forbidden, &removed]);
}

#[test]
fn a_server_does_not_start_with_a_file_that_does_not_work() {
    let place = Place::new("auth-start");
    let file = place.0.join("tokens");
    for (content, words) in [
        ("", "is empty"),
        ("app sha256:00 shop all:*\n", "line 1"),
        (&format!("app {} shop write:*\n", digest("x")), "rights are"),
    ] {
        fs::write(&file, content).unwrap();
        let output = Command::new(BINARY)
            .args(["serve", "--store", "memory", "--listen", "127.0.0.1:0", "--auth", "static"])
            .args(["--auth-static-file", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert_ne!(output.status.code(), Some(0));
        assert!(
            said(&output).contains("auth_static_file") && said(&output).contains(words),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn a_client_manages_its_own_queues_at_the_control_port_with_its_own_token() {
    let guarded = Guarded::start(
        "manages",
        &[
            ("owner", "p1 produce,consume,claim,manage:jobs* produce:dead"),
            ("reader", "p1 consume:jobs"),
            ("stranger", "p2 manage,consume,claim,produce:*"),
        ],
    );
    let control = format!("http://127.0.0.1:{}", guarded.server.control);
    let run = |name: &str, arguments: &[&str]| {
        let output = Command::new(BINARY)
            .args(arguments)
            .args(["--project", "p1", "--control", &control])
            .args(["--control-token-file", guarded.place.0.join(name).to_str().unwrap()])
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains(CANARY), "{text}");
        (output.status.code().unwrap(), text)
    };
    let create = ["queue", "create", "jobs", "--partitions", "1"];
    for name in ["reader", "stranger"] {
        let (code, text) = run(name, &create);
        assert!(code == 2 && text.contains("403") && text.contains("grant does not allow"), "{name}: {text}");
    }
    assert_eq!(run("owner", &create).0, 0);
    assert_eq!(run("owner", &["queue", "set", "jobs", "_dead_letter_queue=dead"]).0, 0);
    let (code, text) = run("owner", &["queue", "set", "jobs", "_dead_letter_queue=other"]);
    assert!(code == 2 && text.contains("does not allow to produce to other"), "{text}");
    let (code, text) = run("owner", &["queue", "create", "others"]);
    assert!(code == 2 && text.contains("403"), "{text}");
    assert_eq!(run("reader", &["queue", "stats", "jobs"]).0, 0);
    let (code, text) = run("reader", &["message", "get", "jobs", "0.0"]);
    assert!(code == 1 && text.contains("no such message"), "a reader may look: {text}");
    for arguments in
        [&["message", "delete", "jobs", "0.0"][..], &["message", "pop", "jobs"], &["queue", "purge", "jobs"]]
    {
        let (code, text) = run("reader", arguments);
        assert!(code == 2 && text.contains("403"), "{arguments:?}: {text}");
        assert_ne!(run("owner", arguments).0, 2, "{arguments:?}");
    }
    let (code, text) = run("stranger", &["message", "get", "jobs", "0.0"]);
    assert!(code == 2 && text.contains("403"), "{text}");
    // Whoever may read the control port may list queues. A change needs a token.
    let (code, text) = run("owner", &["queue", "list"]);
    assert!(code == 0 && text.contains("p1/jobs"), "{text}");
    let anonymous =
        Command::new(BINARY).args(create).args(["--project", "p1", "--control", &control]).output().unwrap();
    assert!(String::from_utf8_lossy(&anonymous.stderr).contains("need a token over TCP while auth is on"));
    let show = ["queue", "show", "jobs", "--project", "p1", "--control", &control];
    let shown = Command::new(BINARY).args(show).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stderr).contains("need a token over TCP"), "{}", said(&shown));
    // A stranger who guesses keeps no client out.
    fs::write(guarded.place.0.join("wrong"), "ms_guessed\n").unwrap();
    for _ in 0..15 {
        let (code, text) = run("wrong", &["queue", "stats", "jobs"]);
        assert!(code == 2 && (text.contains("401") || text.contains("429")), "{text}");
    }
    assert_eq!(run("reader", &["queue", "stats", "jobs"]).0, 0);
    assert_eq!(run("owner", &["queue", "delete", "jobs"]).0, 0);
    assert_eq!(run("owner", &create).0, 0);
    // A removed token ends, although its grant was remembered.
    guarded.rewrite(&self::text(&[("owner", "p1 manage,consume:jobs*")]));
    eventually("the removed token is refused", || {
        (run("reader", &["queue", "stats", "jobs"]).0 == 2).then_some(())
    });
    assert_eq!(run("owner", &["queue", "stats", "jobs"]).0, 0);
    assert_eq!(run("owner", &["message", "pop", "jobs"]).0, 2, "its grant has become smaller");
}
