//! Tests `millstream queue` and `millstream message` as clients of the Zaqar API (`--url`), with real processes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/certificates.rs"]
mod certificates;
mod common;
#[path = "common/place.rs"]
mod place;
#[path = "common/terminator.rs"]
mod terminator;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

use certificates::Authority;
use common::zaqar::Zaqar;
use common::{BINARY, Server};
use millstream::auth::token::Digest;
use place::Place;
use rustls::version::TLS13;
use serde_json::{Value, json};
use terminator::{Terminator, server_config};

/// A part of every token. Nothing may show it.
const CANARY: &str = "canary-91c4";

/// The flags that say where the queues are.
struct Tool(Vec<String>);

impl Tool {
    fn at(url: &str) -> Self {
        Self(vec!["--url".into(), url.into()])
    }

    fn of(server: &Server) -> Self {
        Self::at(&format!("ws://127.0.0.1:{}/v2", server.port))
    }

    fn with(mut self, flags: &[&str]) -> Self {
        self.0.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY).args(arguments).args(&self.0).output().unwrap()
    }

    /// Returns the exit code of a command, and what it prints.
    fn prints(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// Returns the exit code of a command, and what it says.
    fn says(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Returns what a command prints as JSON, one value for each line.
    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [arguments, &["-o", "json"]].concat();
        let (code, printed) = self.prints(&arguments);
        assert_eq!(code, 0, "{arguments:?}: {}", self.says(&arguments).1);
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut lines = self.lines(arguments);
        assert_eq!(lines.len(), 1, "{arguments:?}: {lines:?}");
        lines.remove(0)
    }
}

fn start() -> (Server, Tool, Zaqar) {
    let server = Server::start(&["--cores", "0-1"]);
    let (tool, zaqar) = (Tool::of(&server), Zaqar::connect(&server).of_project("default"));
    (server, tool, zaqar)
}

fn bodies(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({ "task": number })).collect()
}

#[test]
fn a_queue_is_created_shown_counted_purged_and_deleted() {
    let (_server, tool, mut zaqar) = start();
    let create = ["queue", "create", "jobs", "--partitions", "2", "_max_claim_count=5", "owner=billing"];
    let attributes = json!({"_max_claim_count": 5, "owner": "billing"});
    let page = json!({"project": "default", "queue": "jobs", "attributes": attributes});
    assert_eq!(tool.json(&create), page);
    let (code, said) = tool.says(&["queue", "create", "jobs", "owner=other"]);
    assert!(code == 1 && said.contains("exists"), "{said}");

    let posted = zaqar.post("jobs", &bodies(3));
    zaqar.get(201, "claim_create", json!({"queue_name": "jobs", "limit": 1}));
    let stats = tool.json(&["queue", "stats", "jobs"]);
    assert_eq!((&stats["free"], &stats["claimed"], &stats["total"]), (&json!(2), &json!(1), &json!(3)));
    assert!(posted.contains(&stats["oldest"]["id"].as_str().unwrap().to_owned()), "{stats}");
    assert!(stats["newest"]["timestamp"].as_u64().unwrap() > 1_600_000_000_000, "{stats}");
    assert_eq!((stats.get("bytes"), stats.get("delayed")), (None, None));
    let shown = tool.json(&["queue", "show", "jobs"]);
    assert_eq!((&shown["attributes"], &shown["stats"]), (&attributes, &stats));
    assert_eq!(shown.get("partitions"), None);
    let (code, text) = tool.prints(&["queue", "show", "jobs"]);
    assert!(code == 0 && text.contains("owner = \"billing\"") && text.contains("total        3"), "{text}");
    assert!(!text.contains("partitions") && !text.contains("bytes"), "{text}");

    let purge = tool.prints(&["queue", "purge", "jobs"]);
    assert_eq!(purge, (0, "the messages of default/jobs are deleted\n".into()));
    assert_eq!(tool.json(&["queue", "purge", "jobs"]), json!({}));
    assert_eq!(tool.json(&["queue", "stats", "jobs"])["total"], 0);
    assert_eq!(tool.prints(&["queue", "delete", "jobs"]), (0, "default/jobs is deleted\n".into()));
    for command in ["show", "stats", "purge", "delete"] {
        let (code, said) = tool.says(&["queue", command, "jobs"]);
        assert!(code == 1 && said.contains("default/jobs: no such queue"), "{command}: {said}");
    }
}

#[test]
fn a_list_has_every_page_and_one_project() {
    let (server, tool, mut zaqar) = start();
    let mut other = Zaqar::connect(&server).of_project("other");
    let mut expected = Vec::new();
    for number in 0..45 {
        let queue = format!("{}-{number:02}", if number % 2 == 0 { "even" } else { "odd" });
        zaqar.get(201, "queue_create", json!({ "queue_name": queue }));
        expected.push(json!({"project": "default", "queue": queue}));
    }
    other.get(201, "queue_create", json!({"queue_name": "elsewhere"}));
    expected.sort_by_key(|line| line["queue"].as_str().unwrap().to_owned());
    assert_eq!(tool.lines(&["queue", "list"]), expected);
    expected.retain(|line| line["queue"].as_str().unwrap().starts_with("odd-"));
    assert_eq!(tool.lines(&["queues", "--prefix", "odd-"]), expected);
    let (code, text) = tool.prints(&["queue", "list", "--project", "other"]);
    let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((code, text.lines().count(), row), (0, 2, vec!["other/elsewhere", "-", "-", "-", "-", "-"]));
    assert!(tool.lines(&["queue", "list", "--project", "nobody"]).is_empty());
}

#[test]
fn messages_are_got_deleted_and_popped() {
    let (server, tool, mut zaqar) = start();
    let posted = zaqar.post("jobs", &bodies(45));
    let all: Vec<&str> = posted.iter().map(String::as_str).collect();
    let lines = tool.lines(&[&["message", "get", "jobs"], &all[..]].concat());
    assert_eq!(lines.len(), 45);
    let first = lines.iter().find(|line| line["id"] == posted[0]).unwrap();
    assert_eq!((&first["payload"], &first["ttl"]), (&json!("eyJ0YXNrIjowfQ=="), &json!(600)));
    assert!(first["age"].is_u64() && first.get("timestamp").is_none(), "{first}");
    assert_eq!(tool.prints(&["message", "get", "jobs", all[44]]), (0, "{\"task\":44}\n".into()));
    let (code, said) = tool.says(&["message", "get", "jobs", all[0], "absent"]);
    assert!(code == 1 && said.contains("message absent: there is no such message"), "{said}");

    let claim = zaqar.get(201, "claim_create", json!({"queue_name": "jobs", "limit": 1}));
    let claimed = claim["messages"][0]["id"].as_str().unwrap().to_owned();
    let free = *all.iter().find(|id| **id != claimed).unwrap();
    let kept = ["message", "delete", "jobs", &claimed, free, "absent", "--unclaimed"];
    let (code, said) = tool.says(&kept);
    assert!(code == 1 && said.contains(&claimed) && said.contains("is claimed"), "{said}");
    assert!(said.contains("message absent: there is no such message") && !said.contains(free), "{said}");
    let removed = tool.json(&["message", "delete", "jobs", &claimed]);
    assert_eq!(removed, json!({"id": claimed, "is_deleted": true}));
    let rest: Vec<&str> = all.iter().copied().filter(|id| ![&claimed[..], free].contains(id)).collect();
    let removed = tool.lines(&[&["message", "delete", "jobs"], &rest[..40]].concat());
    assert!(removed.len() == 40 && removed.iter().all(|line| line["is_deleted"] == true), "{removed:?}");

    let popped = tool.lines(&["message", "pop", "jobs", "--count", "2"]);
    assert_eq!(popped.iter().map(|line| &line["id"]).collect::<Vec<_>>(), [rest[40], rest[41]]);
    zaqar.post("jobs", &[json!("a text"), json!(null)]);
    let (code, text) = tool.prints(&["message", "pop", "jobs", "--count", "100"]);
    assert_eq!((code, &text[..]), (0, "{\"task\":44}\na text\nnull\n"));
    let (code, said) = tool.says(&["message", "pop", "jobs"]);
    assert!(code == 1 && said.contains("no message can be popped"), "{said}");
    for arguments in [&["pop", "none"][..], &["get", "none", all[0]], &["delete", "none", all[0]]] {
        let (code, said) = tool.says(&[&["message"], arguments].concat());
        assert!(code == 1 && said.contains("default/none: no such queue"), "{arguments:?}: {said}");
    }
    zaqar.post("jobs", &bodies(45)[..20]);
    zaqar.post("jobs", &bodies(45)[20..]);
    assert_eq!(tool.lines(&["message", "pop", "jobs", "--count", "41"]).len(), 41);
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_the_api_does_not_offer_and_what_the_server_refuses_is_said() {
    let (server, tool, _) = start();
    for (arguments, action) in [
        (&["set", "q", "owner=me"][..], "set"),
        (&["add-partitions", "q", "--total", "9"], "add-partitions"),
        (&["redrive", "q"], "redrive"),
    ] {
        let (code, said) = tool.says(&[&["queue"], arguments].concat());
        assert!(
            code == 2 && said.contains(&format!("{action}: the Zaqar API does not offer this")),
            "{said}"
        );
        assert!(said.contains("--control") && said.contains("--data-dir"), "{said}");
    }
    let (code, said) = tool.says(&["queue", "create", "q", "_default_message_ttl=1"]);
    assert!(
        code == 2 && said.contains("queue_create: 400 ") && said.contains("_default_message_ttl"),
        "{said}"
    );

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = silent.local_addr().unwrap();
    drop(silent);
    let control = format!("ws://127.0.0.1:{}/v2", server.control);
    for (url, words) in [
        (&format!("ws://{gone}/v2")[..], "refused"),
        (&control, "refused: 404"),
        ("http://127.0.0.1:9000", "not a ws:// or wss:// address"),
    ] {
        let (code, said) = Tool::at(url).says(&["queue", "list"]);
        assert!(code == 2 && said.contains(url) && said.contains(words), "{said}");
    }
    for (flags, words) in [
        (&["--url", "ws://h/v2", "--control", "http://h"][..], "cannot be used with"),
        (&["--url", "ws://h/v2", "--data-dir", "d"], "cannot be used with"),
        (&["--url", "ws://h/v2", "--control-ca", "f"], "cannot be used with"),
        (&["--insecure"], "--insecure: works only with --url"),
        (&["--token-file", "f"], "--token-file: works only with --url"),
    ] {
        let (code, said) = Tool(Vec::new()).with(flags).says(&["queue", "list"]);
        assert!(code == 2 && said.contains(words), "{said}");
    }
}

#[test]
fn a_token_opens_what_its_rules_allow_and_is_never_shown() {
    let place = Place::new("queues-remote-token");
    let token = |name: &str| format!("ms_{CANARY}-{name}");
    let line = |name: &str, rest: &str| format!("{name} {} {rest}\n", Digest::of(&token(name)));
    let lines = line("boss", "shop manage:* produce:* consume:*") + &line("reader", "shop consume:*");
    fs::write(place.0.join("tokens"), lines).unwrap();
    let file = |name: &str, token: &str| {
        let path = place.0.join(name);
        fs::write(&path, token).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let tokens = place.0.join("tokens").to_str().unwrap().to_owned();
    let server = Server::start(&["--cores", "0", "--auth", "static", "--auth-static-file", &tokens]);
    let of = |name: &str| Tool::of(&server).with(&["--token-file", &file(name, &token(name))]);
    let boss = of("boss");
    assert_eq!(boss.json(&["queue", "create", "jobs", "--project", "shop"])["project"], "shop");
    assert_eq!(boss.lines(&["queue", "list", "--project", "shop"]).len(), 1);
    for (tool, arguments, words) in [
        (of("nobody"), &["delete", "jobs", "--project", "shop"][..], "authenticate: 401 "),
        (of("reader"), &["delete", "jobs", "--project", "shop"], ": 403 "),
        (of("boss"), &["show", "jobs", "--project", "elsewhere"], ": 403 "),
        (Tool::of(&server), &["show", "jobs", "--project", "shop"], ": 403 "),
    ] {
        let (code, said) = tool.says(&[&["queue"], arguments].concat());
        assert!(code == 2 && said.contains(words) && !said.contains(CANARY), "{arguments:?}: {said}");
    }
    let by_variable = Command::new(BINARY)
        .args(["queue", "list", "--project", "shop", "-o", "json"])
        .args(&Tool::of(&server).0)
        .env("MILLSTREAM_TOKEN", token("boss"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&by_variable.stdout).lines().count(), 1);
    assert_eq!(boss.prints(&["queue", "delete", "jobs", "--project", "shop"]).0, 0);
    assert!(!server.log().iter().any(|line| line.contains(CANARY)), "the log shows a token");
}

#[test]
fn a_server_behind_tls_is_asked_if_it_is_trusted() {
    let (authority, place) = (Authority::new("an authority"), Place::new("queues-remote-tls"));
    authority.write(&place.0, "ca");
    let server = Server::start(&["--cores", "0"]);
    let config = server_config(&authority.server(&["localhost"]), &[&TLS13], None);
    let terminator = Terminator::start(server.port, config, true);
    let tool = || Tool::at(&format!("wss://localhost:{}/v2", terminator.port));
    let ca = place.0.join("ca.pem");
    let trusting = tool().with(&["--ca", ca.to_str().unwrap()]);
    assert_eq!(trusting.json(&["queue", "create", "jobs"])["queue"], "jobs");
    assert_eq!(trusting.lines(&["queue", "list"]).len(), 1);
    let (code, said) = tool().says(&["queue", "list"]);
    assert!(code == 2 && said.contains("TLS") && said.contains("--ca"), "{said}");
}
