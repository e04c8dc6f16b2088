//! Tests the real binary as operators see it: configuration, health, metrics, log lines, and the effect of a
//! panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use common::{
    BINARY, Client, Neighbour, Server, append, code, get, handshake, producer, request, response, status,
};
use millstream::base::error::FAILURES;
use millstream::base::limits::{CONTROL_CONNECTIONS_MAX, LIVE_STREAMS_MAX};
use millstream::pb::{ConsumeResponse, ProduceResponse, ProduceSetupResponse, Status};

/// Runs `serve`. Returns its standard output, its standard error and its exit code.
fn serve(arguments: &[&str], variables: &[(&str, &str)]) -> (String, String, Option<i32>) {
    let mut command = Command::new(BINARY);
    command.arg("serve").args(arguments).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn check_config_shows_each_setting_with_its_source_and_the_memory() {
    let path = std::env::temp_dir().join(format!("millstream-control-{}.toml", std::process::id()));
    std::fs::write(&path, "partitions = 3\nidle_timeout = \"2min\"\n").unwrap();
    let file = path.to_str().unwrap();
    let variables = [("MILLSTREAM_PRODUCE_WINDOW", "500"), ("MILLSTREAM_PARTITIONS", "4")];
    let (said, _, code) =
        serve(&["--config", file, "--check-config", "--max-connections", "1000"], &variables);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(code, Some(0));
    let line = |key: &str| said.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    let words = line("partitions");
    assert_eq!(
        words.split_whitespace().collect::<Vec<_>>(),
        ["partitions", "=", "4", "#", "MILLSTREAM_PARTITIONS"]
    );
    assert!(line("idle_timeout").contains("120s") && line("idle_timeout").contains(file));
    assert!(line("max_connections").contains("# --max-connections"));
    assert!(line("ttl_min").contains("# default"));
    assert!(said.contains("MiB  at worst"), "{said}");
}

#[test]
fn serve_accepts_the_printed_default_file() {
    let (text, _, code) = serve(&["--print-default-config"], &[]);
    assert_eq!(code, Some(0));
    let path = std::env::temp_dir().join(format!("millstream-default-{}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let (said, _, code) = serve(&["--config", path.to_str().unwrap(), "--check-config"], &[]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!((code, said.contains("default-")), (Some(0), false), "comments must not set anything: {said}");
}

#[test]
fn invalid_configuration_is_refused_with_exit_code_2_and_a_remedy() {
    let refused = |arguments: &[&str], variables: &[(&str, &str)], words: &str| {
        let (_, said, code) = serve(arguments, variables);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    };
    refused(&["--partition", "3"], &[], "--partitions");
    refused(&["--max-pb-bytes", "64MiB"], &[], "an eighth of shard_budget_bytes = 33554432");
    refused(&[], &[("MILLSTREAM_IDLE_TIMOUT", "5s")], "the nearest is idle_timeout");
    refused(&["--config", "/nowhere/millstream.toml"], &[], "/nowhere/millstream.toml");
    refused(&["--cores", "4000"], &[], "this process may not run on core 4000");
    let server = Server::start(&["--cores", "0"]);
    let taken = format!("127.0.0.1:{}", server.port);
    refused(&["--cores", "0", "--listen", &taken], &[], &format!("cannot serve on {taken}"));
    let control = format!("127.0.0.1:{}", server.control);
    let flags = ["--cores", "0", "--listen", "127.0.0.1:0", "--control-listen", &control];
    refused(&flags, &[], "set control_listen to a free address");
}

#[test]
fn too_little_lockable_memory_is_refused_with_a_remedy() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -l 64 && exec \"$0\" serve --listen 127.0.0.1:0", BINARY])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("LimitMEMLOCK=infinity")
            && said.contains("shards need ")
            && said.contains("only 64 KiB"),
        "{said}"
    );
}

#[test]
fn the_server_is_ready_until_it_drains() {
    let server = Server::start(&["--cores", "0-1"]);
    assert_eq!(server.control("/healthz"), (200, "ok\n".into()));
    assert_eq!(server.control("/readyz"), (200, "ok\n".into()));
    assert_eq!(server.control("/elsewhere").0, 404);
    // A client that does not answer the server's Close delays the end of the drain.
    let mut slow = Client::connect(&server);
    slow.begin(&append("open"));
    assert_eq!(code(&slow.receive_as::<ProduceSetupResponse>().status), 100);
    server.signal("TERM");
    let ended: ProduceResponse = slow.receive_as();
    assert_eq!(code(&ended.status), 503);
    assert_eq!(slow.receive(), None);
    assert_eq!(server.control("/readyz"), (503, "draining\n".into()));
    assert_eq!(server.control("/healthz").0, 200, "a draining server is healthy but not ready");
    assert_eq!(server.metric("millstream_draining"), 1);
    drop(slow);
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_stalled_shard_fails_the_health_check_with_its_number() {
    let server = Server::start(&["--cores", "0", "--test-faults", "true"]);
    assert_eq!(server.control("/healthz").0, 200);
    let mut client = Client::connect(&server);
    client.begin(&append("stall-shard"));
    let (failed, text) = common::eventually("the health check fails", || {
        let answer = server.control("/healthz");
        (answer.0 != 200).then_some(answer)
    });
    assert_eq!((failed, &text[..]), (503, "shard 0 did not answer within 1s\n"));
    common::eventually("the health check succeeds again", || {
        (server.control("/healthz").0 == 200).then_some(())
    });
    assert!(server.metric("millstream_shard_stalls_total") >= 1);
}

/// Opens a connection to the control port and sends `said`.
fn dial_control(server: &Server, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.control)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(said.as_bytes()).unwrap();
    stream
}

/// Waits until the server ends a connection.
fn await_end(stream: &mut TcpStream) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is still open: {error}"),
    }
}

#[test]
fn half_sent_control_requests_block_no_others_and_end() {
    let server = Server::start(&["--cores", "0"]);
    assert_eq!(server.control("/healthz").0, 200);
    let before = server.open_files();
    let half = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let mut halves: Vec<TcpStream> = (0..200).map(|_| dial_control(&server, half)).collect();
    assert_eq!(server.control("/healthz"), (200, "ok\n".into()));
    let open = server.open_files();
    assert!(open <= before + CONTROL_CONNECTIONS_MAX, "{open} files are open, {before} were open before");
    halves.iter_mut().for_each(await_end);
    assert_eq!(server.stop(), 0);
}

#[test]
fn idle_control_connections_end_and_no_body_is_awaited() {
    let server = Server::start(&["--cores", "0"]);
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
    let mut waiting = dial_control(&server, &format!("{get}Content-Length: 1000000\r\n\r\n"));
    let mut idle = dial_control(&server, &format!("{get}\r\n"));
    for stream in [&mut waiting, &mut idle] {
        assert_eq!(status(&response(stream)), 200);
        await_end(stream);
    }
}

#[test]
fn a_foreign_web_page_gets_nothing_from_the_control_port() {
    let server = Server::start(&["--cores", "0", "--control-hosts", "ops.example"]);
    let port = server.control;
    let ask = |request: &str, headers: &str| {
        let mut stream = dial_control(&server, &format!("{request}\r\n{headers}Connection: close\r\n\r\n"));
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (status(&text), text)
    };
    let own = format!("Host: 127.0.0.1:{port}\r\n");
    for path in ["/", "/healthz", "/readyz", "/metrics", "/latency", "/info"] {
        let get = format!("GET {path} HTTP/1.1");
        for host in [format!("127.0.0.1:{port}"), "localhost".into(), "[::1]:1".into(), "ops.example".into()]
        {
            assert_eq!(ask(&get, &format!("Host: {host}\r\n")).0, 200, "{path} {host}");
        }
        let (refused, text) = ask(&get, &format!("Host: evil.example:{port}\r\n"));
        assert!(refused == 421 && text.contains("control_hosts"), "{path}: {text}");
        assert_eq!(ask(&get, &format!("{own}Origin: http://evil.example\r\n")).0, 403, "{path}");
        assert_eq!(ask(&get, &format!("{own}Sec-Fetch-Site: cross-site\r\n")).0, 403, "{path}");
        assert_eq!(ask(&get, &format!("{own}Sec-Fetch-Site: same-site\r\n")).0, 403, "{path}");
        let page = format!("{own}Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n");
        assert_eq!(ask(&get, &page).0, 200, "{path}");
    }
    for (host, expected) in [("127.0.0.1", 404), ("evil.example", 421)] {
        assert_eq!(ask("GET /elsewhere HTTP/1.1", &format!("Host: {host}\r\n")).0, expected);
        assert_eq!(ask("DELETE /queues/p/q HTTP/1.1", &format!("Host: {host}\r\n")).0, expected);
    }
    let foreign = format!("{own}Origin: http://127.0.0.1:3000\r\n");
    assert_eq!(ask("DELETE /queues/p/q HTTP/1.1", &foreign).0, 403);
    assert_eq!(ask("GET /healthz HTTP/1.0", "").0, 200, "a simple probe sends no Host");
    assert!(server.wait_for_log("control_hosts").contains("evil.example"));
}

/// The lines of a live stream.
struct Live(BufReader<TcpStream>);

impl Live {
    fn open(server: &Server) -> Self {
        let said = "GET /live HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
        let mut live = Self(BufReader::new(dial_control(server, said)));
        assert_eq!(status(&live.line()), 200);
        live
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream must not end");
        line
    }

    /// Waits for `count` intervals. No other event may come.
    fn await_events(&mut self, count: usize) {
        let mut seen = 0;
        while seen < count {
            let line = self.line();
            assert!(!line.starts_with("event:"), "{line}");
            seen += usize::from(line.starts_with("data:"));
        }
    }

    fn await_displacement(&mut self) {
        while !self.line().starts_with("event: displaced") {}
    }
}

#[test]
fn unread_live_streams_do_not_lock_out_the_page() {
    let server = Server::start(&["--cores", "0", "--latency-interval", "100ms"]);
    let said = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let unread: Vec<_> = (0..2 * LIVE_STREAMS_MAX).map(|_| dial_control(&server, said)).collect();
    Live::open(&server).await_events(5);
    assert_eq!(server.control("/").0, 200);
    drop(unread);
}

#[test]
fn one_live_stream_too_many_displaces_the_oldest() {
    let server = Server::start(&["--cores", "0", "--latency-interval", "100ms"]);
    let mut streams: Vec<Live> = (0..LIVE_STREAMS_MAX).map(|_| Live::open(&server)).collect();
    streams.iter_mut().for_each(|stream| stream.await_events(1));
    let mut newest = Live::open(&server);
    newest.await_events(1);
    streams[0].await_displacement();
    streams[1..].iter_mut().for_each(|stream| stream.await_events(5));
    newest.await_events(5);
}

#[test]
fn metrics_start_at_zero() {
    let server = Server::start(&["--cores", "0-1"]);
    let (_, page) = server.control("/metrics");
    let zero = |series: String| {
        let wanted = format!("{series} 0");
        assert!(page.lines().any(|line| line == wanted), "{wanted} is missing: {page}");
    };
    for shard in 0..2 {
        for status in [400, 403, 404, 408, 426, 429, 431, 500, 503] {
            zero(format!("millstream_handshakes_refused_total{{shard=\"{shard}\",status=\"{status}\"}}"));
        }
        for status in FAILURES {
            zero(format!("millstream_operations_failed_total{{shard=\"{shard}\",status=\"{status}\"}}"));
            zero(format!("millstream_messages_refused_total{{shard=\"{shard}\",status=\"{status}\"}}"));
        }
    }
    zero("millstream_handshakes_refused_total{shard=\"acceptor\",status=\"503\"}".into());
    zero("millstream_stage_duration_seconds_count{stage=\"produce\"}".into());
}

#[test]
fn metrics_count_messages_operations_and_refusals() {
    let server = Server::start(&["--cores", "0-1"]);
    let mut client = producer(&server, "counted/0");
    client.send(&request(Some(60), &[b"one", b"two", b"three"]));
    client.send(&request(None, &[b"no ttl"]));
    let mut through = 0;
    while through < 4 {
        through = client.receive_as::<ProduceResponse>().msgnum_status_is_thru();
    }
    let mut consumer = Client::connect(&server);
    consumer.begin(&get("counted", "", true));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    assert_eq!(consumer.receive_as::<ConsumeResponse>().messages.len(), 3);
    let mut bad = Client::connect(&server);
    bad.begin(&append("no such name"));
    assert_eq!(code(&bad.receive_as::<ProduceSetupResponse>().status), 400);
    let mut stream = server.dial();
    stream.write_all(handshake("/", "Sec-WebSocket-Protocol: other\r\n").as_bytes()).unwrap();
    assert_eq!(status(&response(&mut stream)), 400);
    for (name, value) in [
        ("millstream_messages_received_total", 4),
        ("millstream_store_messages_stored_total", 3),
        ("millstream_messages_delivered_total", 3),
        ("millstream_operations{kind=\"produce\"", 1),
        ("millstream_operations{kind=\"consume\"", 1),
        ("millstream_operations_begun_total", 2),
        ("millstream_producer_credit_messages", 65_536),
        ("millstream_budget_ceiling_bytes", 512 << 20),
        ("millstream_budget_reserved_bytes", 0),
        ("millstream_connection_panics_total", 0),
        ("millstream_proxy_headers_refused_total", 0),
        ("millstream_draining", 0),
        ("millstream_reloads_total", 0),
        ("millstream_control_requests_refused_total", 0),
        ("millstream_control_token_reloads_total", 0),
    ] {
        assert_eq!(server.metric(name), value, "{name}");
    }
    let by_status = |name: &str, status: u32| {
        let (_, page) = server.control("/metrics");
        let wanted = format!("status=\"{status}\"");
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(&wanted));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(by_status("millstream_messages_refused_total", 400), 1);
    assert_eq!(by_status("millstream_operations_failed_total", 400), 1);
    assert_eq!(by_status("millstream_handshakes_refused_total", 400), 1);
}

#[test]
fn json_log_lines_name_the_failed_client_and_never_a_token() {
    let server = Server::start(&[
        "--cores",
        "0",
        "--log-format",
        "json",
        "--log",
        "trace",
        "--memory-bytes",
        "1",
        "--memory-full",
        "refuse",
    ]);
    let secret = "a-secret-that-nobody-may-read";
    for (target, extra) in [
        (format!("/?token={secret}&project_id=acme"), String::new()),
        (format!("/v2/x?token={secret}"), format!("X-Auth-Token: {secret}\r\n")),
    ] {
        let mut stream = server.dial();
        stream.write_all(handshake(&target, &extra).as_bytes()).unwrap();
        response(&mut stream);
    }
    let headers = [("X-Project-Id", "acme"), ("X-Auth-Token", secret)];
    let mut client = Client::connect_with(&server, &headers);
    client.begin(&append("full"));
    client.receive_as::<ProduceSetupResponse>();
    client.send(&request(Some(60), &[b"x"]));
    assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 503);
    let line = server.wait_for_log("operation failed");
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    let fields = &json["fields"];
    assert_eq!(json["level"], "WARN");
    assert_eq!(
        (&fields["project"], &fields["queue"], &fields["status"]),
        (&"acme".into(), &"full".into(), &503.into())
    );
    assert!(
        fields["peer"].as_str().unwrap().contains("127.0.0.1:") && fields["connection"].is_u64(),
        "{line}"
    );
    for line in server.log() {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
        assert!(!line.contains(secret), "{line}");
    }
    assert_eq!(server.log().iter().filter(|line| line.contains("millstream serves")).count(), 1);
}

#[test]
fn repeated_errors_are_counted_not_logged() {
    let server = Server::start(&["--cores", "0", "--memory-bytes", "1", "--memory-full", "refuse"]);
    let mut client = Client::connect(&server);
    for _ in 0..200 {
        client.begin(&append("full"));
        client.receive_as::<ProduceSetupResponse>();
        client.send(&request(Some(60), &[b"x"]));
        while client.receive().is_some() {}
        client.finish();
    }
    let count = server.wait_for_log("repeated log lines suppressed");
    assert!(count.contains("kept_back=195"), "{count}");
    let told = server.log().iter().filter(|line| line.contains("operation failed")).count();
    assert_eq!(told, 5);
}

#[test]
fn a_panic_in_a_connection_ends_only_that_connection() {
    let server = Server::start(&["--cores", "0", "--test-faults", "true"]);
    let neighbour = Neighbour::beside(&server);
    for number in 1..=3 {
        let mut client = Client::connect_with(&server, &[("X-Project-Id", "unlucky")]);
        client.begin(&append("fine"));
        assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
        client.finish();
        assert_eq!(client.receive(), None);
        client.begin(&append("panic-connection"));
        let failure: ProduceSetupResponse = client.receive_as();
        assert_eq!((code(&failure.status), failure.max_msgnum_to_send), (500, Some(0)));
        assert_eq!(client.receive(), None);
        assert_eq!(client.close_code(), 1011);
        assert_eq!(server.metric("millstream_connection_panics_total"), number);
    }
    // A panic during a produce operation, with messages in flight.
    let mut client = producer(&server, "fine");
    client.send(&request(Some(60), &[b"one", b"panic-connection"]));
    let failure: ProduceResponse = client.receive_as();
    assert_eq!((code(&failure.status), failure.msgnum_status_is_thru()), (500, 0));
    assert_eq!(client.receive(), None);
    assert_eq!(client.close_code(), 1011);
    let line = server.wait_for_log("connection handler panicked");
    assert!(line.contains("unlucky") && line.contains("127.0.0.1:"), "{line}");
    assert!(server.wait_for_log("thread panicked").contains("planted by test_faults"));
    neighbour.leave();
    drop(client);
    assert_eq!(server.metric("millstream_budget_reserved_bytes"), 0);
    assert_eq!(server.metric("millstream_budget_held_bytes"), 0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_panic_in_a_shard_aborts_the_process() {
    let mut server = Server::start(&["--cores", "0-1", "--test-faults", "true"]);
    let mut client = Client::connect(&server);
    client.begin(&append("panic-shard"));
    let ended = server.ended_within(Duration::from_secs(10));
    assert_eq!(ended.signal(), Some(6), "{ended}: the process must abort");
    let log = server.log().join("\n");
    assert!(log.contains("planted by test_faults") && log.contains("server thread panicked"), "{log}");
}
