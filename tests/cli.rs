//! Tests the command line when something is wrong: its messages, its exit codes, and that it ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/surroundings.rs"]
mod surroundings;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{BINARY, Server, eventually, feed, spawn};
use surroundings::{IO_URING, forbid, run_on_terminal};

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns the number before `word` in the output.
fn number(said: &str, word: &str) -> u64 {
    let before = said.split(word).next().unwrap().trim_end();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap_or_else(|_| panic!("no number before {word}: {said}"))
}

fn interrupt(child: &Child) {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn a_failed_connection_does_not_stop_the_others_and_its_messages_are_counted() {
    let server = Server::start(&["--cores", "0", "--max-payload-bytes", "1000", "--max-pb-bytes", "10000"]);
    let mut input: Vec<u8> = (0..50_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    input.extend([&[b'x'; 20_000][..], b"\n"].concat());
    // More than the connection that fails may have taken from the input before.
    input.extend((0..400_000).flat_map(|n| format!("more {n}\n").into_bytes()));
    let output = feed(server.run(&["produce", "mixed", "--connections", "4"]), &input);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("413"), "{said}");
    let (acknowledged, refused) = (number(&said, " acknowledged"), number(&said, " refused"));
    assert_eq!(acknowledged + refused + number(&said, " not delivered"), 450_001, "{said}");
    assert!(acknowledged > 150_000, "the other connections must send the rest: {said}");
}

#[test]
fn an_oversized_line_is_refused_and_the_others_are_stored() {
    let server = Server::start(&["--cores", "0"]);
    let input = [&b"one\n"[..], &vec![b'x'; 9 << 20], b"\ntwo\n\nlast without newline"].concat();
    let output = feed(server.run(&["produce", "long"]), &input);
    let said = said(&output);
    assert_eq!(
        (output.status.code(), number(&said, " acknowledged"), number(&said, " refused")),
        (Some(1), 4, 1)
    );
    let output = feed(server.run(&["consume", "long", "--count", "4"]), b"");
    assert_eq!(output.stdout, b"one\ntwo\n\nlast without newline\n");
}

#[test]
fn a_consumer_whose_output_is_closed_prints_no_marker() {
    let server = Server::start(&["--cores", "0"]);
    let lines: Vec<u8> = (0..100_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    assert!(feed(server.run(&["produce", "pipe"]), &lines).status.success());
    let mut child = spawn(server.run(&["consume", "pipe"]));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    // The reader of standard output has closed it.
    let output = child.wait_with_output().unwrap();
    assert_eq!((first.as_str(), output.status.code()), ("0\n", Some(141)));
    assert_eq!(said(&output), "");
}

#[test]
fn a_client_without_anything_to_write_notices_that_nobody_reads() {
    let server = Server::start(&["--cores", "0"]);
    for arguments in [&["consume", "unread"][..], &["claim", "unread"]] {
        assert!(feed(server.run(&["produce", "unread"]), b"one\n").status.success());
        let mut client = server.run(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "one\n");
        drop(output);
        assert_eq!(client.wait().unwrap().code(), Some(141), "{arguments:?}");
    }
    // One that has written all it was asked for has succeeded.
    assert!(feed(server.run(&["produce", "unread"]), b"two\n").status.success());
    let command = "set -o pipefail; \"$0\" consume unread --url \"$1\" --count 1 | head -1";
    let url = format!("ws://127.0.0.1:{}/", server.port);
    for _ in 0..20 {
        let output = Command::new("bash").args(["-c", command, BINARY, &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
}

#[test]
fn a_mistaken_address_or_directory_is_named() {
    let server = Server::start(&["--cores", "0"]);
    let empty = std::env::temp_dir().join(format!("millstream-mistaken-{}", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    let directory = empty.to_str().unwrap();
    let control = format!("ws://127.0.0.1:{}/", server.control);
    let zaqar = format!("ws://127.0.0.1:{}/v2", server.port);
    for (arguments, code, words) in [
        (&["consume", "q", "--url", &control][..], 1, "is this the address of the control port?"),
        (&["consume", "q", "--url", &zaqar], 2, "/v2 is a path of the Zaqar API"),
        (&["produce", "q", "--file", directory], 2, "is a directory"),
        (&["log", "verify", directory], 2, "no file of a log is there"),
        (&["queues", "--data-dir", directory], 2, "no file of a log is there"),
        (&["serve", "--cores", "0", "--store", "log", "--data-dir", BINARY], 2, "not a directory"),
    ] {
        let output = Command::new(BINARY).args(arguments).output().unwrap();
        let said = said(&output);
        assert!(output.status.code() == Some(code) && said.contains(words), "{arguments:?}: {said}");
        assert!(said.len() < 1000, "{said}");
    }
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "nothing is left there");
    std::fs::remove_dir(&empty).unwrap();
    let command = ["serve", "--check-config", "--cores", "0"];
    let output = Command::new(BINARY).args(command).env("MILLSTREAM_CONFIG", "").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "an empty variable names no file: {}", said(&output));
}

#[test]
fn a_signal_ends_clients_of_a_stopped_server() {
    let server = Server::start(&["--cores", "0"]);
    server.signal("STOP");
    let consume = spawn(server.run(&["consume", "silent"]));
    let produce = spawn(server.run(&["produce", "silent", "--count", "5", "--size", "5"]));
    // Clients install their signal handlers before they connect. The kernel accepts connections for the
    // stopped server.
    wait_for_connections(server.port, 2);
    let began = Instant::now();
    interrupt(&consume);
    interrupt(&produce);
    let consumed = consume.wait_with_output().unwrap();
    assert_eq!((consumed.status.code(), number(&said(&consumed), " messages")), (Some(0), 0));
    let produced = produce.wait_with_output().unwrap();
    assert_eq!((produced.status.code(), number(&said(&produced), " not delivered")), (Some(1), 5));
    assert!(began.elapsed() < Duration::from_secs(20));
    server.signal("CONT");

    let nobody = ["consume", "nobody", "--url", "ws://127.0.0.1:1/", "--retries", "1000"];
    let mut command = Command::new(BINARY);
    command.args(nobody);
    let mut retrying = spawn(command);
    let mut notice = [0; 10];
    retrying.stderr.as_mut().unwrap().read_exact(&mut notice).unwrap();
    interrupt(&retrying);
    assert_eq!(retrying.wait().unwrap().code(), Some(0));
}

/// Waits until `count` connections to `port` are established.
fn wait_for_connections(port: u16, count: usize) {
    let wanted = format!(":{port:04X} 01 ");
    let began = Instant::now();
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // The remote address and the state of each line.
        let established = table.lines().filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3 && format!("{} {} ", &fields[2][8..], fields[3]) == wanted
        });
        if established.count() >= count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the connections are not established");
        std::thread::yield_now();
    }
}

#[test]
fn invalid_settings_are_refused_by_name() {
    let cases: [(&[&str], &str); 10] = [
        (&["serve", "--store", "memory", "--memory-bytes", "1000"], "memory_bytes"),
        (&["serve", "--ping-interval", "0"], "ping_interval"),
        (&["serve", "--log-segment-bytes", "4MiB"], "log_segment_bytes"),
        (&["serve", "--max-payload-bytes", "0"], "max_payload_bytes"),
        (&["serve", "--spin-us", "99999999"], "spin_us"),
        (&["serve", "--cores", "4000"], "core 4000"),
        (&["bench", "produce", "--in-flight", "10"], "--in-flight"),
        (&["bench", "produce", "--seconds", "0"], "--seconds"),
        (&["bench", "produce", "--cores", "4000"], "core 4000"),
        (&["bench", "consume", "--window", "0"], "--window"),
    ];
    for (arguments, name) in cases {
        let output = Command::new(BINARY).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(name), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_scheduled_bench_ends_with_its_window() {
    let server = Server::start(&["--cores", "0"]);
    let began = Instant::now();
    let slow = ["bench", "produce", "--rate", "1", "--seconds", "1", "--warmup", "0", "--json"];
    let output = feed(server.run(&slow), b"");
    assert!(output.status.success(), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "it must not wait for messages due after its end");
}

/// Runs a command whose standard output (or standard error, if `is_error`) was closed by its reader.
fn run_closed(mut command: Command, is_error: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if is_error {
        command.stderr(writer)
    } else {
        command.stdout(writer)
    };
    let child = command.spawn().unwrap();
    // The command holds its own copy of the write end.
    drop(command);
    child.wait_with_output().unwrap()
}

#[test]
fn a_closed_pipe_ends_every_listing_quietly() {
    let data = std::env::temp_dir().join(format!("millstream-listed-{}", std::process::id()));
    let server = Server::start(&["--cores", "0", "--store", "log", "--data-dir", data.to_str().unwrap()]);
    assert!(feed(server.run(&["produce", "listed"]), b"one\n").status.success());
    let control = format!("http://127.0.0.1:{}", server.control);
    let result = std::env::temp_dir().join(format!("millstream-closed-{}.json", std::process::id()));
    let out = result.to_str().unwrap();
    let of_server = |arguments: &[&str]| server.run(arguments);
    let alone = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        command
    };
    let bench = ["bench", "produce", "--count", "100", "--connections", "1", "--control", "off"];
    assert!(of_server(&[&bench[..], &["--out", out]].concat()).output().unwrap().status.success());
    let listings = [
        alone(&["queues", "--control", &control]),
        alone(&["queues", "--json", "--control", &control]),
        alone(&["serve", "--print-default-config"]),
        alone(&["serve", "--check-config"]),
        alone(&["report", out, "--json", "-"]),
        alone(&["report", out, "--markdown", "-"]),
        of_server(&bench),
        of_server(&[&bench[..], &["--json"]].concat()),
        alone(&["queue", "delete", "listed", "--control", &control]),
    ];
    for command in listings {
        let shown = format!("{command:?}");
        let output = run_closed(command, false);
        assert_eq!(output.status.code(), Some(141), "{shown}: {}", said(&output));
        assert!(!said(&output).contains("panic"), "{shown}: {}", said(&output));
    }
    // A closed standard error does not stop the work.
    let produced = run_closed(of_server(&["produce", "unheard", "--count", "5", "--size", "5"]), true);
    assert_eq!(produced.status.code(), Some(0));
    let consumed = run_closed(of_server(&["consume", "unheard", "--count", "5"]), true);
    assert_eq!((consumed.status.code(), &consumed.stdout[..]), (Some(0), &b"xxxxx\n".repeat(5)[..]));
    std::fs::remove_file(result).unwrap();
    assert_eq!(server.stop(), 0);
    std::fs::remove_dir_all(data).unwrap();
}

#[test]
fn common_forms_of_addresses_work_and_others_are_explained() {
    let server = Server::start(&["--cores", "0"]);
    let produce = |url: &str| {
        let mut command = Command::new(BINARY);
        command.args(["produce", "addressed", "--retries", "0", "--url", url]);
        feed(command, b"one\n")
    };
    let at = format!("127.0.0.1:{}", server.port);
    let fine = ["ws://{}", "WS://{}/", "ws://{}?project_id=acme", "ws://{}/a/b?x=%20y"];
    for url in fine.map(|url| url.replace("{}", &at)) {
        let output = produce(&url);
        assert!(output.status.success(), "{url}: {}", said(&output));
    }
    let by_name = format!("ws://localhost:{}/", server.port);
    assert!(produce(&by_name).status.success(), "a client must try each address of localhost");
    let refused = [
        ("https://{}/", "not a ws:// or wss:// address"),
        ("http://{}/", "not a ws:// or wss:// address"),
        ("{}", "ws://"),
        ("ws://me:hidden@{}/", "@"),
        ("ws://{}/#part", "fragment"),
    ];
    for (url, words) in refused {
        let output = produce(&url.replace("{}", &at));
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(said(&output).contains(words) && !said(&output).contains("hidden"), "{}", said(&output));
    }
    for arguments in [&["queues"][..], &["bench", "produce"], &["queue", "delete", "q"]] {
        let mut command = Command::new(BINARY);
        let output = command.args(arguments).args(["--control", "ws://127.0.0.1:9001/"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            said(&output).contains("not an http:// or https:// address"),
            "{arguments:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn a_client_without_resources_names_the_limit_to_raise() {
    let with_limit = |limit: &str, arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\""), BINARY]).args(arguments);
        shell.stdin(Stdio::null()).output().unwrap()
    };
    let clients: [&[&str]; 3] = [
        &["produce", "q", "--retries", "0"],
        &["consume", "q", "--retries", "0"],
        &["bench", "produce", "--control", "off", "--cores", "0"],
    ];
    for (limit, words) in [("-l 64", "memlock"), ("-n 24", "ulimit -n")] {
        for client in clients {
            let output = with_limit(limit, client);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{client:?} with {limit}: {said}");
            assert!(said.contains(words) && said.trim_end().lines().count() == 1, "{client:?}: {said}");
        }
    }
}

#[test]
fn without_io_uring_the_error_is_one_line_and_other_commands_work() {
    let run = |arguments: &[&str], calls, errno| {
        let mut command = Command::new(BINARY);
        command.args(arguments).stdin(Stdio::null());
        forbid(&mut command, calls, errno);
        command.output().unwrap()
    };
    let bench = |mode: &'static str, more: &[&'static str]| {
        [&["bench", mode, "--control", "off", "--cores", "0"], more].concat()
    };
    let needing = [
        vec!["serve", "--listen", "127.0.0.1:0", "--store", "memory", "--cores", "0"],
        vec!["produce", "q", "--retries", "0"],
        vec!["consume", "q", "--retries", "0"],
        bench("produce", &[]),
        bench("consume", &[]),
        bench("both", &[]),
        bench("fan-out", &[]),
        bench("idle", &["--idle", "1"]),
    ];
    for arguments in &needing {
        for errno in [libc::EPERM, libc::ENOSYS] {
            // All io_uring calls together, and each call by itself.
            let each = IO_URING.map(|call| call..=call);
            for calls in std::iter::once(IO_URING).chain(each) {
                let output = run(arguments, calls.clone(), errno);
                let said = said(&output);
                let what = format!("{arguments:?} without {calls:?} ({errno}): {said}");
                assert_eq!(output.status.code(), Some(2), "{what}");
                assert!(said.contains("io_uring") && said.contains("seccomp"), "{what}");
                assert!(said.trim_end().lines().count() == 1 && !said.contains("panic"), "{what}");
            }
        }
    }

    let data = std::env::temp_dir().join(format!("millstream-forbidden-{}", std::process::id()));
    let path = data.to_str().unwrap();
    let server = Server::start(&["--cores", "0", "--store", "log", "--data-dir", path]);
    assert!(feed(server.run(&["produce", "there"]), b"one\n").status.success());
    let control = format!("http://127.0.0.1:{}", server.control);
    let result = std::env::temp_dir().join(format!("millstream-forbidden-{}.json", std::process::id()));
    let out = result.to_str().unwrap();
    let bench = ["bench", "produce", "--count", "100", "--connections", "1", "--out", out];
    assert!(server.run(&[&bench[..], &["--control", "off"]].concat()).output().unwrap().status.success());
    let works = |arguments: &[&str]| {
        let output = run(arguments, IO_URING, libc::EPERM);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    };
    works(&["--version"]);
    works(&["serve", "--check-config"]);
    works(&["serve", "--print-default-config"]);
    works(&["report", out, "--json", "-"]);
    works(&["queues", "--control", &control]);
    assert_eq!(server.stop(), 0);
    works(&["queues", "--data-dir", path]);
    works(&["log", "verify", path]);
    works(&["queue", "delete", "there", "--data-dir", path]);
    std::fs::remove_file(result).unwrap();
    std::fs::remove_dir_all(data).unwrap();
}

#[test]
fn payloads_are_escaped_on_a_terminal_without_raw() {
    let data = std::env::temp_dir().join(format!("millstream-terminal-{}", std::process::id()));
    let path = data.to_str().unwrap();
    let server = Server::start(&["--cores", "0", "--store", "log", "--data-dir", path]);
    let payload = b"\x1b[2Jgone \xff\x07";
    let line = [&payload[..], b"\n"].concat();
    assert!(feed(server.run(&["produce", "hostile"]), &line).status.success());
    let consume = |more: &[&str]| server.run(&[&["consume", "hostile", "--count", "1"], more].concat());
    let on_terminal = |command: Command| {
        let (shown, output) = run_on_terminal(command);
        assert!(output.status.success(), "{}", said(&output));
        shown
    };
    // A terminal's driver turns "\n" into "\r\n".
    let (escaped, raw) = (&b"\\u{1b}[2Jgone \\xff\\u{7}\r\n"[..], [&payload[..], b"\r\n"].concat());
    assert_eq!(on_terminal(consume(&[])), escaped);
    assert_eq!(on_terminal(consume(&["--raw"])), raw);
    assert_eq!(feed(consume(&[]), b"").stdout, line, "a pipe gets the payload unchanged");
    assert_eq!(server.stop(), 0);
    let dump = |more: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["log", "dump", path, "hostile"]).args(more);
        command
    };
    assert_eq!(on_terminal(dump(&[])), escaped);
    assert_eq!(on_terminal(dump(&["--raw"])), raw);
    assert_eq!(feed(dump(&[]), b"").stdout, line);
    std::fs::remove_dir_all(data).unwrap();
}

#[test]
fn control_requests_ignore_proxy_variables() {
    let data = std::env::temp_dir().join(format!("millstream-proxy-{}", std::process::id()));
    let server = Server::start(&["--cores", "0", "--store", "log", "--data-dir", data.to_str().unwrap()]);
    assert!(feed(server.run(&["produce", "behind"]), b"one\n").status.success());
    let control = format!("http://127.0.0.1:{}", server.control);
    let run = |mut command: Command| {
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            // Nothing listens on this port.
            command.env(name, "http://127.0.0.1:1");
        }
        command.env_remove("no_proxy").env_remove("NO_PROXY");
        let output = command.args(["--control", &control]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let alone = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        command
    };
    run(alone(&["queues"]));
    run(alone(&["queue", "delete", "behind"]));
    let said = run(server.run(&["bench", "produce", "--count", "100", "--connections", "1"]));
    assert!(!said.contains("histograms"), "bench must read the server's histograms: {said}");
    assert_eq!(server.stop(), 0);
    std::fs::remove_dir_all(data).unwrap();
}

#[test]
fn help_explains_where_consume_can_resume() {
    let output = Command::new(BINARY).args(["consume", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("an earlier consume printed") && help.contains("~PARTITION.OFFSET"), "{help}");
}

#[test]
fn text_from_a_server_is_escaped_on_a_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let hostile = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        stream
            .write_all(b"HTTP/1.1 403 No\r\nConnection: close\r\n\r\n\x1b[2Jowned\r\nmillstream: fine\n")
            .unwrap();
    });
    let mut command = Command::new(BINARY);
    command.args(["consume", "q", "--retries", "0", "--url", &url]);
    let output = feed(command, b"");
    hostile.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("refused: 403"), "{}", said(&output));
    assert!(!output.stderr.contains(&0x1b), "{}", said(&output));
    assert!(!said(&output).lines().any(|line| line == "millstream: fine"), "{}", said(&output));
}

#[test]
fn a_start_error_is_json_if_the_log_is_json() {
    let server = Server::start(&["--cores", "0"]);
    let listen = format!("127.0.0.1:{}", server.port);
    let broken = std::env::temp_dir().join(format!("millstream-json-{}.toml", std::process::id()));
    std::fs::write(&broken, "log_format = \"json\"\npartitions = 0\n").unwrap();
    let cases: [&[&str]; 4] = [
        &["--log-format", "json", "--listen", &listen, "--store", "memory", "--cores", "0"],
        &["--log-format", "json", "--partitions", "0"],
        &["--config", broken.to_str().unwrap()],
        &["--log-format", "json", "--no-such-flag"],
    ];
    for case in cases {
        let output = Command::new(BINARY).arg("serve").args(case).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{case:?}");
        let lines: Vec<serde_json::Value> = said(&output)
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{case:?}: {error}: {line}"))
            })
            .collect();
        let last = lines.last().expect("the log must give a reason");
        assert_eq!(last["level"], "ERROR");
        assert!(!last["fields"]["message"].as_str().unwrap().is_empty() && last["timestamp"].is_string());
    }
    std::fs::remove_file(broken).unwrap();
}

/// Returns the lines that `consume --exit-at-end` prints, sorted.
fn to_the_end(server: &Server, arguments: &[&str]) -> Vec<String> {
    let output = feed(server.run(&[&["consume", "--exit-at-end"], arguments].concat()), b"");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn exit_at_end_ends_whatever_the_last_messages_are() {
    let server = Server::start(&["--cores", "0-1", "--ttl-min", "1"]);
    let id = ["--client-id", "11111111-2222-3333-4444-555555555555"];
    assert!(to_the_end(&server, &["nothing-here"]).is_empty());
    let mut sent: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
    let input = (sent.join("\n") + "\n").into_bytes();
    assert!(feed(server.run(&["produce", "job", "--connections", "8"]), &input).status.success());
    sent.sort();
    assert!(to_the_end(&server, &["job"]) == sent);
    assert_eq!(to_the_end(&server, &["job", "--json", "--window", "100"]).len(), 20_000);
    assert!(to_the_end(&server, &["job", "--from", "latest"]).is_empty());
    assert_eq!(to_the_end(&server, &["job", "--count", "3"]).len(), 3);
    let parts: usize = (0..8).map(|n| to_the_end(&server, &[&format!("job/{n}")]).len()).sum();
    assert_eq!(parts, 20_000, "each partition must end");

    // The client's own messages are skipped, both at the end of a queue and when they are its only messages.
    assert!(feed(server.run(&[&["produce", "mine"], &id[..]].concat()), b"own\n").status.success());
    assert!(to_the_end(&server, &[&["mine"], &id[..]].concat()).is_empty());
    assert_eq!(to_the_end(&server, &["mine"]), ["own"]);

    // Expired messages are not sent.
    assert!(feed(server.run(&["produce", "short", "--ttl", "1"]), b"gone soon\n").status.success());
    eventually("the last message expires", || to_the_end(&server, &["short"]).is_empty().then_some(()));
}

#[test]
fn a_token_is_printed_once_and_its_line_holds_no_token() {
    let new =
        |arguments: &[&str]| Command::new(BINARY).args(["token", "new"]).args(arguments).output().unwrap();
    let output =
        new(&["--name", "app1", "--projects", "a,b", "--rule", "produce:orders*", "--rule", "consume:log"]);
    let said = said(&output);
    let token = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(token.starts_with("ms_") && token.len() == 47 && token.ends_with('\n'));
    assert!(
        said.starts_with("app1 sha256:") && said.ends_with(" a,b produce:orders* consume:log\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    assert!(!said.contains(token.trim()));
    assert_ne!(new(&[]).stdout, new(&[]).stdout);
    // The server takes the line as it is.
    let file = std::env::temp_dir().join(format!("millstream-tokens-{}", std::process::id()));
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let auth = ["--auth", "static", "--auth-static-file", file.to_str().unwrap()];
        Command::new(BINARY).args(["serve", "--check-config"]).args(auth).output().unwrap()
    };
    assert_eq!(check(&said).status.code(), Some(0));
    let bad = check(&format!("{said}app2 {token}"));
    assert_eq!(bad.status.code(), Some(2));
    let bad = self::said(&bad);
    assert!(bad.contains("auth_static_file") && bad.contains("line 2: "), "{bad}");
    assert!(!bad.contains(token.trim()), "a token in the wrong place is not shown");
    std::fs::remove_file(&file).unwrap();
    for (arguments, why) in [
        (["--rule", "write:*"], "is not a rule"),
        (["--name", "a b"], "is not a name"),
        (["--projects", "a/b"], "project"),
    ] {
        let output = new(&arguments);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true));
        assert!(self::said(&output).contains(why), "{}", self::said(&output));
    }
}
