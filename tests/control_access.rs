//! Tests who may read and who may change at the control port of the real binary: over TCP, TLS and Unix sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/certificates.rs"]
mod certificates;
mod common;
#[path = "common/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use certificates::Authority;
use common::{BINARY, Client, Server, append, code, eventually, get, producer, request};
use millstream::auth::token::Digest;
use millstream::control::{Right, routes};
use millstream::pb::{ProduceResponse, ProduceSetupResponse, Status};
use place::Place;

/// Part of every token. It must never be shown.
const CANARY: &str = "canary-7f3a";

/// The tokens of the tests: one that may read, and one that may change.
fn tokens() -> [String; 2] {
    [format!("{CANARY}-reads"), format!("{CANARY}-changes")]
}

fn write_tokens(path: &Path, tokens: &[(&str, &str)]) {
    let mut text = String::from("# NAME DIGEST RIGHT\n");
    for (token, right) in tokens {
        text.push_str(&format!("{right}er {} {right}\n", Digest::of(token)));
    }
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn token_file(place: &Place) -> PathBuf {
    let path = place.0.join("tokens");
    let [read, change] = tokens();
    write_tokens(&path, &[(&read, "read"), (&change, "change")]);
    path
}

/// Starts a server in memory whose control port has these flags and listens on a Unix socket, too.
fn start(place: &Place, flags: &[&str]) -> Server {
    let listen = format!("127.0.0.1:0,unix:{}", socket(place).display());
    Server::start(&[&["--cores", "0-1", "--control-listen", &listen][..], flags].concat())
}

fn socket(place: &Place) -> PathBuf {
    place.0.join("control.sock")
}

/// Sends a request to a Unix socket. Returns status and body.
fn ask_unix(path: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Returns the status of a request over TCP with this token. The answer to a live stream never ends, so only its
/// beginning is read.
fn ask_tcp(server: &Server, request: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.control)).unwrap();
    let header = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n").unwrap();
    let head = common::response(&mut stream);
    (common::status(&head), head)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).env_remove("MILLSTREAM_CONTROL_TOKEN").output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The table of all pages. A page that is missing here fails the test, so its right must be chosen on purpose.
const RIGHTS: [(&str, &str, Right); 23] = [
    ("GET", "/healthz", Right::Open),
    ("GET", "/readyz", Right::Open),
    ("GET", "/", Right::Read),
    ("GET", "/live", Right::Read),
    ("GET", "/metrics", Right::Read),
    ("GET", "/latency", Right::Read),
    ("GET", "/info", Right::Read),
    ("GET", "/queues", Right::Read),
    ("GET", "/connections", Right::Read),
    ("GET", "/queues/{project}/{queue}", Right::Read),
    ("PUT", "/queues/{project}/{queue}", Right::Change),
    ("PATCH", "/queues/{project}/{queue}", Right::Change),
    ("DELETE", "/queues/{project}/{queue}", Right::Change),
    ("POST", "/queues/{project}/{queue}/purge", Right::Change),
    ("POST", "/queues/{project}/{queue}/redrive", Right::Change),
    ("GET", "/queues/{project}/{queue}/messages", Right::Change),
    ("DELETE", "/queues/{project}/{queue}/messages", Right::Change),
    ("POST", "/queues/{project}/{queue}/pop", Right::Change),
    ("DELETE", "/connections/{id}", Right::Change),
    ("POST", "/reload", Right::Change),
    ("POST", "/backups", Right::Change),
    ("POST", "/backups/{id}", Right::Change),
    ("DELETE", "/backups/{id}", Right::Change),
];

/// Returns a request for a page, with names in place of its parameters.
fn example((method, path, _): (&str, &str, Right)) -> String {
    let path = path.replace("{project}", "nobody").replace("{queue}", "nothing").replace("{id}", "0.9999.0");
    format!("{method} {path}")
}

#[test]
fn every_page_needs_its_right_and_the_table_has_every_page() {
    let table: BTreeMap<_, _> =
        RIGHTS.iter().map(|(method, path, right)| ((*method, *path), *right)).collect();
    let pages: BTreeMap<_, _> = routes().map(|(method, path, right)| ((method, path), right)).collect();
    assert_eq!(pages, table);
    let place = Place::new("rights");
    let file = token_file(&place);
    let server = start(&place, &["--control-tokens", file.to_str().unwrap()]);
    let [read, change] = tokens();
    let mut unknown = 0;
    for page in RIGHTS {
        let request = example(page);
        let right = page.2;
        let status = |token: Option<&str>| ask_tcp(&server, &request, token).0;
        let is_refused = |status: u16| [401, 403].contains(&status);
        let expected = |has: Right, refusal: u16| if has >= right { 0 } else { refusal };
        for (token, has, refusal) in [
            (None, Right::Open, 401),
            (Some("wrong"), Right::Open, 401),
            (Some(&*read), Right::Read, 403),
            (Some(&*change), Right::Change, 0),
        ] {
            if token == Some("wrong") && right > Right::Open {
                unknown += 1;
                if unknown > 10 {
                    // The address is throttled from then on.
                    continue;
                }
            }
            let status = status(token);
            let got = if is_refused(status) { status } else { 0 };
            assert_eq!(got, expected(has, refusal), "{request} with {token:?}: {status}");
        }
    }
    for (token, expected) in [(None, 401), (Some(&*read), 403)] {
        let (status, head) = ask_tcp(&server, "POST /reload", token);
        assert_eq!(status, expected);
        assert!(head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{head}");
    }
    // The loop has sent ten unknown tokens.
    let (status, head) = ask_tcp(&server, "GET /info", Some("wrong"));
    assert!(status == 429 && head.to_ascii_lowercase().contains("retry-after: 1"), "{head}");
    assert_eq!(ask_tcp(&server, "GET /info", Some(&*read)).0, 200, "a token that is known");
    let throttled = "millstream_control_requests_refused_total{status=\"429\"}";
    assert_eq!(ask_unix_metric(&place, throttled), 1);
    assert_eq!(ask_unix_metric(&place, "millstream_control_audit_lines_dropped_total"), 0);
    assert!(server.wait_for_log("control port request refused").contains("millstream::audit"));
    let line = server.wait_for_log("control port change");
    assert!(line.contains("changeer") && line.contains("127.0.0.1:"), "{line}");
    let refused = ask_unix_metric(&place, "millstream_control_requests_refused_total{status=\"403\"}");
    assert!(refused >= 4, "{refused}");
    // Nothing that the server shows or logs contains a token.
    for path in ["/metrics", "/info", "/connections", "/latency"] {
        let (status, page) = ask_unix(&socket(&place), &format!("GET {path}"));
        assert!(status == 200 && !page.contains(CANARY), "{path}");
    }
    assert!(!server.log().join("\n").contains(CANARY));
    assert_eq!(server.stop(), 0);
}

fn ask_unix_metric(place: &Place, series: &str) -> u64 {
    let (_, page) = ask_unix(&socket(place), "GET /metrics");
    let line = page.lines().find(|line| line.starts_with(series)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_unix_socket_has_its_mode_needs_no_token_and_names_who_changed_what() {
    let place = Place::new("unix");
    let file = token_file(&place);
    // The file of a server that was killed.
    drop(std::os::unix::net::UnixListener::bind(socket(&place)).unwrap());
    let server = start(&place, &["--control-tokens", file.to_str().unwrap(), "--control-unix-mode", "600"]);
    let path = socket(&place);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for page in RIGHTS.iter().filter(|page| page.1 != "/live") {
        let (status, _) = ask_unix(&path, &example(*page));
        assert!(![401, 403].contains(&status), "{page:?}: {status}");
    }
    let uid = fs::metadata("/proc/self").unwrap().uid();
    let line = server.wait_for_log("/connections/0.9999.0");
    let wanted = format!("uid {uid} gid");
    assert!(line.contains(&wanted) && line.contains(&format!("pid {}", std::process::id())), "{line}");
    let control = format!("unix:{}", path.display());
    let reloaded = run(&["reload", "--control", &control]);
    assert_eq!(reloaded.status.code(), Some(0), "{}", text(&reloaded));
    assert_eq!(server.stop(), 0);
    assert!(!path.exists(), "the file goes with its server");
    let gone = run(&["reload", "--control", &control]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(text(&gone).contains(&control), "{}", text(&gone));
}

#[test]
fn a_server_with_a_log_listens_in_its_data_directory() {
    let place = Place::new("data");
    let data = place.0.join("data");
    let data = data.to_str().unwrap();
    let flags = ["--cores", "0", "--store", "log", "--data-dir", data, "--control-listen", "127.0.0.1:0"];
    let server = Server::start(&flags);
    let mut client = producer(&server, "greetings");
    client.send(&request(Some(60), &[b"one"]));
    assert_eq!(client.receive_as::<ProduceResponse>().msgnum_status_is_thru(), 1);
    let reloaded = run(&["reload", "--data-dir", data]);
    assert_eq!(reloaded.status.code(), Some(0), "{}", text(&reloaded));
    let control = format!("unix:{data}/control.sock");
    let deleted = run(&["queue", "delete", "greetings", "--control", &control]);
    assert_eq!(deleted.status.code(), Some(0), "{}", text(&deleted));
    assert_eq!(server.stop(), 0);
    assert!(!Path::new(data).join("control.sock").exists());
}

#[test]
fn without_tokens_only_a_loopback_address_changes_anything_over_tcp() {
    let place = Place::new("open");
    let server = start(&place, &[]);
    assert_eq!(ask_tcp(&server, "POST /reload", None).0, 200);
    assert_eq!(ask_tcp(&server, "GET /connections", None).0, 200);
    drop(server);
    let listen = format!("0.0.0.0:0,unix:{}", socket(&place).display());
    let server = Server::start(&["--cores", "0", "--control-listen", &listen]);
    let port = server.log().iter().find_map(|line| {
        let rest = line.split_once("control=0.0.0.0:")?.1;
        rest.split(',').next()?.parse::<u16>().ok()
    });
    let server = server.with_control(port.unwrap());
    assert_eq!(ask_tcp(&server, "GET /metrics", None).0, 200);
    let (status, answer) = server.ask_control("POST /reload", "");
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("unix:/PATH") && answer.contains("control_tokens"), "{answer}");
    assert_eq!(ask_unix(&socket(&place), "POST /reload").0, 200);
}

#[test]
fn changed_tokens_are_used_and_a_broken_file_keeps_the_old_ones() {
    let place = Place::new("renewed");
    let file = token_file(&place);
    let server = start(&place, &["--control-tokens", file.to_str().unwrap()]);
    let [old, change] = tokens();
    let status = |token: &str| ask_tcp(&server, "GET /info", Some(token)).0;
    assert_eq!(status(&old), 200);
    write_tokens(&file, &[("new", "read"), (&change, "change")]);
    eventually("the new token works", || (status("new") == 200).then_some(()));
    // The new token was refused several times.
    assert!([401, 429].contains(&status(&old)));
    fs::write(&file, format!("half {CANARY}")).unwrap();
    let why = server.wait_for_log("reading the tokens of the control port again failed");
    assert!(why.contains("no line break") && !why.contains(CANARY), "{why}");
    assert_eq!(status("new"), 200);
    let (status, page) = ask_unix(&socket(&place), "POST /reload");
    assert!(status == 200 && page.contains("keeps the tokens"), "{page}");
    let failed = "millstream_control_token_reloads_total{result=\"failed\"}";
    assert!(ask_unix_metric(&place, failed) >= 2);
}

#[test]
fn a_live_stream_ends_when_its_token_is_removed() {
    let place = Place::new("live");
    let file = token_file(&place);
    let server = start(&place, &["--control-tokens", file.to_str().unwrap()]);
    let [read, change] = tokens();
    let open = |token: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.control)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let head = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        write!(stream, "GET /live HTTP/1.1\r\n{head}").unwrap();
        assert_eq!(common::status(&common::response(&mut stream)), 200);
        stream
    };
    let (mut removed, mut kept) = (open(&read), open(&change));
    write_tokens(&file, &[(&change, "change")]);
    removed.read_to_end(&mut Vec::new()).unwrap();
    // The other stream goes on: another event begins after the end of the first stream.
    let mut buffer = vec![0; 1 << 16];
    assert!(kept.read(&mut buffer).unwrap() > 0);
    drop(kept);
    assert_eq!(server.stop(), 0);
}

#[test]
fn our_clients_speak_tls_and_send_the_token_of_a_file_or_a_variable() {
    let place = Place::new("tls");
    let authority = Authority::new("control");
    let ca = authority.write(&place.0, "ca");
    let (certificate, key) = authority.server(&["127.0.0.1"]).write(&place.0, "server");
    let certificates = format!("{}:{}", certificate.display(), key.display());
    let file = token_file(&place);
    let flags = [
        "--control-tls",
        "true",
        "--tls-certificates",
        &certificates,
        "--control-tokens",
        file.to_str().unwrap(),
    ];
    let server = start(&place, &flags);
    let url = format!("https://127.0.0.1:{}", server.control);
    let ca = ca.to_str().unwrap();
    let [read, change] = tokens().map(|token| {
        let path = place.0.join(&token[CANARY.len() + 1..]);
        fs::write(&path, format!("{token}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let list = ["connections", "list", "--control", &url, "--control-ca", ca];
    let listed = run(&[&list[..], &["--control-token-file", &read]].concat());
    assert_eq!(listed.status.code(), Some(0), "{}", text(&listed));
    let by_variable =
        Command::new(BINARY).args(list).env("MILLSTREAM_CONTROL_TOKEN", &tokens()[0]).output().unwrap();
    assert_eq!(by_variable.status.code(), Some(0), "{}", text(&by_variable));
    let reload = ["reload", "--control", &url, "--control-ca", ca, "--control-token-file"];
    let refused = run(&[&reload[..], &[&read]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("may only read"), "{}", text(&refused));
    let reloaded = run(&[&reload[..], &[&change]].concat());
    assert_eq!(reloaded.status.code(), Some(0), "{}", text(&reloaded));
    let untrusted = run(&["connections", "list", "--control", &url]);
    assert_eq!(untrusted.status.code(), Some(2));
    assert!(text(&untrusted).contains("--control-ca"), "{}", text(&untrusted));
    let plain = run(&["connections", "list", "--control", &format!("http://127.0.0.1:{}", server.control)]);
    assert_eq!(plain.status.code(), Some(2), "{}", text(&plain));
    for output in [listed, by_variable, refused, reloaded, untrusted, plain] {
        assert!(!text(&output).contains(CANARY));
    }
    assert_eq!(ask_unix(&socket(&place), "GET /healthz").0, 200);
    // A renewed certificate is used without a restart.
    let other = Authority::new("another");
    let other_ca = other.write(&place.0, "other-ca");
    let renewed = other.server(&["127.0.0.1"]);
    fs::write(&key, &renewed.key).unwrap();
    fs::write(&certificate, &renewed.certificate).unwrap();
    eventually("the renewed certificate", || {
        let control = ["--control", &url, "--control-token-file", &read];
        let output =
            run(&[&["connections", "list", "--control-ca", other_ca.to_str().unwrap()], &control[..]]
                .concat());
        output.status.success().then_some(())
    });
    assert!(!server.log().join("\n").contains(CANARY));
}

#[test]
fn connections_are_listed_in_pages_found_by_filters_and_closed() {
    let place = Place::new("list");
    let server = start(&place, &[]);
    let mut producer = Client::connect_with(&server, &[("X-Project-Id", "acme")]);
    producer.begin(&append("orders/0"));
    assert_eq!(code(&producer.receive_as::<ProduceSetupResponse>().status), 100);
    producer.send(&request(Some(60), &[b"one", b"two", b"three"]));
    while producer.receive_as::<ProduceResponse>().msgnum_status_is_thru() < 3 {}
    // It gets no credit, so it stays behind.
    let mut consumer = Client::connect_with(&server, &[("X-Project-Id", "acme")]);
    consumer.begin(&get("orders", "", false));
    assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
    let _others: Vec<Client> = (0..5).map(|_| Client::connect(&server)).collect();
    let control = format!("http://127.0.0.1:{}", server.control);
    let list = |flags: &[&str]| {
        let output = run(&[&["connections", "list", "--control", &control, "-o", "json"], flags].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    assert_eq!(list(&[]).len(), 7);
    let ours = list(&["--project", "acme"]);
    let kinds: BTreeMap<_, _> = ours.iter().map(|one| (one["kind"].as_str().unwrap(), one)).collect();
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), ["consume", "produce"]);
    let consuming = kinds["consume"];
    assert_eq!((&consuming["queue"], &consuming["tls"]), (&"orders".into(), &false.into()));
    assert!(consuming["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let lag = consuming["lag"].as_u64().unwrap();
    assert_eq!(list(&["--min-lag", &lag.max(1).to_string()]).len(), usize::from(lag > 0));
    assert_eq!((list(&["--peer", "127.0.0.0/8"]).len(), list(&["--peer", "10.0.0.0/8"]).len()), (7, 0));
    assert!(list(&["--principal", "alice"]).is_empty());
    // Pages of two have all connections once.
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = server.control(&format!("/connections?limit=2{after}"));
        assert_eq!(status, 200, "{page}");
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let lines = page["connections"].as_array().unwrap();
        assert!(lines.len() <= 2);
        ids.extend(lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let mut once = ids.clone();
    once.sort();
    once.dedup();
    assert_eq!((ids.len(), once.len()), (7, 7));
    for (query, words) in
        [("limit=0", "limit: 0"), ("after=x", "after: "), ("peer=x", "peer: "), ("colour=red", "colour")]
    {
        let (status, why) = server.control(&format!("/connections?{query}"));
        assert!(status == 400 && why.contains(words), "{query}: {why}");
    }
    let table = text(&run(&["connections", "list", "--control", &control, "--project", "acme"]));
    assert!(table.starts_with("id ") && table.contains("orders") && table.lines().count() == 3, "{table}");
    let closed = run(&["connections", "close", "--control", &control, "--project", "acme"]);
    assert_eq!((closed.status.code(), text(&closed)), (Some(0), "closed: 2\n".into()));
    for client in [&mut producer, &mut consumer] {
        assert_eq!(client.close_code(), 1001);
    }
    eventually("they are gone", || list(&["--project", "acme"]).is_empty().then_some(()));
    let id = consuming["id"].as_str().unwrap();
    let ended = run(&["connections", "close", "--control", &control, id]);
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended));
    assert_eq!(run(&["connections", "close", "--control", &control]).status.code(), Some(2));
    assert_eq!(server.control("/connections?project=acme").0, 200);
}
