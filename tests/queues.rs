//! Tests `millstream queue` and `millstream message` with real processes: on a data directory that no server uses, and
//! with a running server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{BINARY, Server, eventually, feed, spawn};
use place::Place;
use serde_json::{Value, json};

/// The TTL of `millstream produce` is an hour, so nothing expires during a test.
fn produce(server: &Server, queue: &str, payloads: impl IntoIterator<Item = String>) {
    let lines: String = payloads.into_iter().map(|payload| format!("{payload}\n")).collect();
    let output = feed(server.run(&["produce", queue]), lines.as_bytes());
    assert!(output.status.success(), "{}", said(&output));
}

fn numbers(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|number| number.to_string())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the commands of a test look for queues.
struct Tool(Vec<String>);

impl Tool {
    /// A data directory. If a server uses it, the commands ask that server.
    fn on(data: &Place) -> Self {
        Self(vec!["--data-dir".into(), data.text().into()])
    }

    /// The control port of a server.
    fn of(server: &Server) -> Self {
        Self(vec!["--control".into(), format!("http://127.0.0.1:{}", server.control)])
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY).args(arguments).args(&self.0).output().unwrap()
    }

    /// Returns what a command prints as JSON, one value for each line.
    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        printed(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut lines = self.lines(arguments);
        assert_eq!(lines.len(), 1, "{arguments:?}: {lines:?}");
        lines.remove(0)
    }

    /// Returns the exit code of a command and what it says.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), said(&output))
    }

    /// Returns the numbers of free, claimed and delayed messages, and of all.
    fn counts(&self, queue: &str) -> [u64; 4] {
        let stats = self.json(&["queue", "stats", queue]);
        ["free", "claimed", "delayed", "total"].map(|name| stats[name].as_u64().unwrap())
    }
}

fn serve(data: &Place) -> Server {
    Server::start(&["--store", "log", "--data-dir", data.text(), "--cores", "0-1"])
}

fn payloads(server: &Server, queue: &str, count: usize) -> Vec<String> {
    let output = feed(server.run(&["consume", queue, "--count", &count.to_string()]), b"");
    let mut lines: Vec<String> = printed(&output).lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| line.parse::<u64>().unwrap_or_default());
    lines
}

#[test]
fn what_finds_room_in_a_full_queue_is_not_sent_again_with_what_does_not() {
    let server = Server::start(&["--cores", "0"]);
    let tool = Tool::of(&server);
    let create = ["queue", "create", "full", "--partitions", "1", "_max_bytes=2000", "_when_full=refuse"];
    tool.json(&create);
    // The second and the fourth line find no room; others behind them do.
    let lines = [1500, 800, 100, 801, 101].map(|length| "x".repeat(length));
    let mut producing = spawn(server.run(&["produce", "full", "--retries", "1000"]));
    let mut input = producing.stdin.take().unwrap();
    input.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    drop(input);
    eventually("what finds room", || (tool.counts("full")[3] >= 3).then_some(()));
    let lengths = |output: Output| printed(&output).lines().map(str::len).collect::<Vec<_>>();
    // Makes room for the others.
    let popped = feed(server.run(&["claim", "full", "--count", "1"]), b"");
    assert_eq!(lengths(popped), [1500]);
    assert!(producing.wait_with_output().unwrap().status.success());
    let kept = feed(server.run(&["consume", "full", "--exit-at-end"]), b"");
    assert_eq!(lengths(kept), [100, 101, 800, 801], "each once");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_queue_is_created_changed_and_shown_alike_with_a_server_and_without() {
    let data = Place::new("queues-alike");
    for is_running in [false, true] {
        let server = is_running.then(|| serve(&data));
        let tool = Tool::on(&data);
        if !is_running {
            // A directory without queues.
            serve(&data).stop();
        }
        let name = if is_running { "running" } else { "stopped" };
        let create = ["queue", "create", name, "--partitions", "2", "_max_claim_count=5", "owner=billing"];
        let expected = json!({
            "project": "default", "queue": name, "partitions": 2,
            "attributes": {"_max_claim_count": 5, "owner": "billing"},
        });
        assert_eq!(tool.json(&create), expected);
        let (code, text) = tool.fails(&["queue", "create", name, "owner=other"]);
        assert!(code == 1 && text.contains("exists"), "{text}");
        let set = ["queue", "set", name, "owner=[1, 2]", "_max_messages=7", "--unset", "_max_claim_count"];
        assert_eq!(tool.json(&set)["attributes"], json!({"_max_messages": 7, "owner": [1, 2]}));
        let grown = tool.json(&["queue", "add-partitions", name, "--total", "5"]);
        assert_eq!((&grown["partitions"], &grown["keys_move"]), (&json!(5), &json!(true)));
        let shown = tool.json(&["queue", "show", name]);
        assert_eq!(shown["attributes"], json!({"_max_messages": 7, "owner": [1, 2]}));
        assert_eq!((&shown["partitions"], &shown["stats"]["total"]), (&json!(5), &json!(0)));
        for (arguments, words) in [
            (
                &["queue", "set", name, "_max_messages=0"][..],
                "_max_messages: 0 is not a whole number from 1 on",
            ),
            (&["queue", "set", name, "_partitions=6"], "_partitions: is set at the creation"),
            (&["queue", "set", name, "_unknown=6"], "_unknown: is not an attribute"),
            (&["queue", "set", name, &format!("_dead_letter_queue={name}")], "its own dead-letter queue"),
            (&["queue", "create", "other", "--partitions", "65"], "64"),
            (&["queue", "add-partitions", name, "--total", "4"], "5"),
            (&["queue", "create", "other", "x"], "NAME=VALUE"),
        ] {
            let (code, text) = tool.fails(arguments);
            assert!(code == 2 && text.contains(words), "{arguments:?}: {code} {text}");
        }
        for arguments in [
            &["queue", "show", "none"][..],
            &["queue", "set", "none", "a=1"],
            &["queue", "stats", "none"],
            &["queue", "purge", "none"],
            &["queue", "add-partitions", "none", "--total", "9"],
            &["message", "get", "none", "0.0"],
            &["message", "delete", "none", "0.0"],
            &["message", "pop", "none"],
        ] {
            let (code, text) = tool.fails(arguments);
            assert!(code == 1 && text.contains("no such queue"), "{arguments:?}: {code} {text}");
        }
        drop(server);
    }
    // Each finds what the other one has made.
    let names: Vec<Value> =
        Tool::on(&data).lines(&["queue", "list"]).iter().map(|line| line["queue"].clone()).collect();
    assert_eq!(names, ["running", "stopped"]);
    let server = serve(&data);
    assert_eq!(Tool::of(&server).json(&["queue", "show", "stopped"])["attributes"]["_max_messages"], 7);
}

#[test]
fn messages_are_counted_found_deleted_and_popped_and_stay_so() {
    let data = Place::new("queues-messages");
    let server = serve(&data);
    let tool = Tool::on(&data);
    tool.json(&["queue", "create", "jobs", "--partitions", "1"]);
    produce(&server, "jobs", numbers(10));
    assert_eq!(tool.counts("jobs"), [10, 0, 0, 10]);
    let stats = tool.json(&["queue", "stats", "jobs"]);
    assert_eq!((&stats["oldest"]["id"], &stats["newest"]["id"]), (&json!("0.0"), &json!("0.9")));
    let found = tool.lines(&["message", "get", "jobs", "0.3", "0.1"]);
    assert_eq!(found.iter().map(|line| &line["id"]).collect::<Vec<_>>(), ["0.1", "0.3"]);
    assert_eq!(found[1]["payload"], "Mw==");
    let (code, text) = tool.fails(&["message", "get", "jobs", "0.1", "0.ff"]);
    assert!(code == 1 && text.contains("0.ff: there is no such message"), "{text}");
    let (code, text) = tool.fails(&["message", "get", "jobs", "x"]);
    assert!(code == 2 && text.contains("\"x\" is not the id of a message"), "{text}");
    assert_eq!(tool.lines(&["message", "delete", "jobs", "0.3", "0.5"]).len(), 2);
    assert_eq!(tool.fails(&["message", "delete", "jobs", "0.3"]).0, 1, "it is deleted already");
    assert_eq!(tool.counts("jobs"), [8, 0, 0, 8]);
    let popped = tool.lines(&["message", "pop", "jobs", "--count", "2"]);
    assert_eq!(popped.iter().map(|line| &line["id"]).collect::<Vec<_>>(), ["0.0", "0.1"]);
    assert_eq!(payloads(&server, "jobs", 6), ["2", "4", "6", "7", "8", "9"]);
    // A claimed message is found, and deleted unless it is to be kept.
    let mut worker = server.run(&["claim", "jobs", "--count", "1", "--exec", "sleep 100"]);
    worker.stdout(Stdio::null()).stderr(Stdio::null());
    let mut worker = spawn(worker);
    eventually("a claim", || (tool.counts("jobs")[1] == 1).then_some(()));
    assert_eq!(tool.json(&["message", "get", "jobs", "0.2"])["is_claimed"], true);
    let (code, text) = tool.fails(&["message", "delete", "jobs", "0.2", "--unclaimed"]);
    assert!(code == 1 && text.contains("it is claimed"), "{text}");
    assert_eq!(tool.json(&["message", "delete", "jobs", "0.2"])["is_deleted"], true);
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(tool.counts("jobs"), [5, 0, 0, 5]);
    // All of this survives kill -9, and is seen without a server, too.
    server.signal("KILL");
    server.wait();
    assert_eq!(tool.counts("jobs"), [5, 0, 0, 5]);
    assert_eq!(tool.lines(&["message", "get", "jobs", "0.4"]).len(), 1);
    assert_eq!(tool.fails(&["message", "get", "jobs", "0.3"]).0, 1);
    assert_eq!(tool.json(&["message", "delete", "jobs", "0.7"])["is_deleted"], true);
    assert_eq!(tool.json(&["message", "pop", "jobs"])["id"], "0.4");
    let server = serve(&data);
    assert_eq!(payloads(&server, "jobs", 3), ["6", "8", "9"]);
    assert_eq!(Tool::of(&server).json(&["queue", "purge", "jobs"])["messages"], 3);
    assert_eq!(tool.counts("jobs"), [0, 0, 0, 0]);
    produce(&server, "jobs", numbers(2));
    assert_eq!(payloads(&server, "jobs", 2), ["0", "1"], "what comes later stays");
    assert_eq!(server.stop(), 0);
    let (table, code) = {
        let output = Command::new(BINARY).args(["log", "verify", data.text()]).output().unwrap();
        (printed(&output), output.status.code())
    };
    assert_eq!(code, Some(0), "{table}");
}

#[test]
fn attributes_reach_producers_that_are_open() {
    let server = Server::start(&["--cores", "0"]);
    let tool = Tool::of(&server);
    tool.json(&["queue", "create", "small", "--partitions", "1", "_max_messages=3"]);
    let refused = feed(server.run(&["produce", "small", "--retries", "0"]), b"1\n2\n3\n4\n5\n");
    assert!(said(&refused).contains("_max_messages"), "{}", said(&refused));
    assert_eq!(tool.counts("small")[3], 3);
    tool.json(&["queue", "set", "small", "_when_full=drop-oldest"]);
    produce(&server, "small", ["6".to_owned(), "7".to_owned()]);
    eventually("the oldest are dropped", || (payloads(&server, "small", 3) == ["3", "6", "7"]).then_some(()));
}

#[test]
fn the_control_port_says_what_is_wrong_with_a_request() {
    let server = Server::start(&["--cores", "0"]);
    let ask = |request: &str, body: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.control)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n{body}")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), body.to_owned())
    };
    assert_eq!(ask("PUT /queues/p/q", "{}").0, 201);
    assert_eq!(ask("PUT /queues/p/q", r#"{"attributes": {"a": 1}}"#).0, 200, "it is left as it is");
    for (request, body, status, words) in [
        ("PUT /queues/p/a%20b", "{}", 400, "queue_name"),
        ("PUT /queues/p/r", r#"{"attributes": []}"#, 400, "expected a map"),
        ("PUT /queues/p/r", r#"{"unknown": {}}"#, 400, "unknown"),
        ("PUT /queues/p/r", "{", 400, ""),
        ("PUT /queues/p/r", r#"{"attributes": {"_partitions": 0}}"#, 400, "_partitions"),
        ("PATCH /queues/p/none", "{}", 404, "no such queue"),
        ("PATCH /queues/p/q", r#"{"partitions": 65}"#, 400, "64"),
        ("GET /queues/p/none", "", 404, "no such queue"),
        ("GET /queues/p/q/messages", "", 400, "id: absent"),
        ("GET /queues/p/q/messages?id=0.1&limit=2", "", 400, "limit: unknown"),
        ("POST /queues/p/q/pop?count=0", "", 400, "1 to 1000"),
        ("POST /queues/p/q/pop?count=1001", "", 400, "1 to 1000"),
        ("POST /queues/p/q/redrive?to=q", "", 400, "itself"),
        ("POST /queues/p/q/redrive?to=a+b", "", 400, "to: "),
        ("GET /queues?limit=x", "", 400, "limit"),
    ] {
        let (found, text) = ask(request, body);
        assert!(found == status && text.contains(words), "{request} {body}: {found} {text}");
    }
    let large = format!(r#"{{"attributes": {{"a": "{}"}}}}"#, "x".repeat(1 << 20));
    assert_eq!(ask("PUT /queues/p/r", &large).0, 413);
    assert_eq!(ask("GET /queues/p/r", "").0, 404);
    produce(&server, "plain", numbers(3));
    let (found, text) = ask("POST /queues/default/plain/redrive", "");
    assert!(found == 409 && text.contains("no dead letters"), "{found} {text}");
    // Nothing of this keeps the server from its work.
    produce(&server, "after", numbers(1));
}
