//! Tests how the real binary listens: Unix sockets, IPv4 and IPv6 on one socket, and PROXY headers. Clients that
//! are refused show whom the server takes them for: it logs the address of a page's peer.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    BINARY, Client, STORE, Server, append, code, consume, eventually, feed, handshake, others_are_served,
    response, status,
};
use millstream::pb::ProduceSetupResponse;
use place::Place;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The longest header of version 1, with a client at 203.0.113.9.
const V1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 9000\r\n";

/// A header of version 2 with a client at 203.0.113.9, and a TLV.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xcb\0\x71\x09\x0a\0\0\x01\x12\x34\x23\x28\x04\0\x01\0";

/// Creates a directory for sockets, whose paths must be short.
fn place(name: &str) -> Place {
    let path = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    Place(path)
}

fn connect(address: (Ipv6Addr, u16)) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Sends bytes and then a handshake that the server refuses because of its origin. Returns the peer that the
/// server logs.
fn peer_of(server: &Server, mut stream: impl Read + Write, before: &[u8], origin: &str) -> String {
    let page = format!("Origin: https://{origin}.example\r\n");
    stream.write_all(&[before, handshake("/", &page).as_bytes()].concat()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(status(&text), 403, "{text}");
    let line = server.wait_for_log(&format!("https://{origin}.example"));
    let peer = line.split(" peer=").nth(1).unwrap_or_else(|| panic!("{line}"));
    peer.split(' ').next().unwrap().to_owned()
}

/// Returns whether the server has read everything that a connection has sent it, as the kernel shows it.
fn is_read(stream: &TcpStream, server: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = stream.local_addr().unwrap().port();
    let (from, to) = (format!(":{server:04X}"), format!(":{ours:04X}"));
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Number, local and remote address, state, tx_queue:rx_queue. State 01 is an established connection.
    let line = lines.find(|line| line[1].ends_with(&from) && line[2].ends_with(&to));
    // A connection that is gone has been read.
    line.is_none_or(|line| line[3] != "01" || line[4].ends_with(":00000000"))
}

/// Returns whether a header and a handshake, sent in two parts that are cut at `cut`, are accepted.
fn is_accepted(server: &Server, header: &[u8], cut: usize) -> bool {
    let bytes = [header, handshake("/", "").as_bytes()].concat();
    let mut stream = server.dial();
    stream.write_all(&bytes[..cut]).unwrap();
    eventually("the server has read the first part", || is_read(&stream, server.port).then_some(()));
    // Fails if the server has already refused the first part.
    let _ = stream.write_all(&bytes[cut..]);
    let mut head = [0; 12];
    stream.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 101"
}

/// Sends bytes, and asserts that the server closes the connection without an answer.
fn assert_closed(server: &Server, bytes: &[u8]) {
    let mut stream = server.dial();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Unread bytes reset the connection.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}

fn refused_headers(server: &Server) -> u64 {
    server.metric("millstream_proxy_headers_refused_total{")
}

/// Starts a server that must fail, and returns its error.
fn refusal(listen: &str) -> String {
    let arguments =
        ["serve", "--control-listen", "off", "--store", "memory", "--cores", "0", "--listen", listen];
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[test]
fn a_server_listens_on_tcp_and_unix_and_clients_use_both() {
    let place = place("unix");
    let path = place.0.join("m.sock");
    let (listen, url) =
        (format!("127.0.0.1:0,unix:{}", path.display()), format!("ws+unix:{}", path.display()));
    let server = Server::start(&["--cores", "0-1", "--listen", &listen]);
    assert!(server.wait_for_log("millstream serves").contains(&format!(",unix:{}", path.display())));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let at_socket = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments).args(["--url", &url]);
        command
    };
    let sent = feed(at_socket(&["produce", "q"]), b"over unix\n");
    assert!(sent.status.success(), "{sent:?}");
    let sent = feed(server.run(&["produce", "q"]), b"over tcp\n");
    assert!(sent.status.success(), "{sent:?}");
    let mut lines = consume(at_socket(&["consume", "q", "--exit-at-end"])).0;
    lines.sort();
    assert_eq!(lines, ["over tcp", "over unix"]);
    let load =
        at_socket(&["bench", "both", "--count", "2000", "--connections", "4", "--control", "off"]).output();
    assert!(load.as_ref().unwrap().status.success(), "{load:?}");
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(peer_of(&server, stream, b"", "page"), "unix");
    assert_eq!(server.stop(), 0);
    assert!(!path.exists(), "a server that stops removes its socket");
}

#[test]
fn a_unix_socket_alone_is_enough_and_its_mode_is_a_setting() {
    let place = place("unix-alone");
    let path = place.0.join("m.sock");
    let mut child = Command::new(BINARY)
        .args(["serve", "--control-listen", "off", "--cores", "0", "--listen-unix-mode", "600", "--listen"])
        .arg(format!("unix:{}", path.display()))
        .env(STORE.0, STORE.1)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stream = eventually("the server", || UnixStream::connect(&path).ok());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(handshake("/", "").as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(told.unwrap().success());
    drop(stream);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn only_the_socket_of_a_dead_server_is_replaced() {
    let place = place("unix-stale");
    let path = place.0.join("m.sock");
    let unix = format!("unix:{}", path.display());
    let both = format!("127.0.0.1:0,{unix}");
    let server = Server::start(&["--cores", "0", "--listen", &both]);
    let said = refusal(&unix);
    assert!(said.contains(&unix) && said.contains("another process listens there"), "{said}");
    assert!(UnixStream::connect(&path).is_ok());
    server.signal("KILL");
    server.wait();
    assert!(path.exists() && UnixStream::connect(&path).is_err());
    let server = Server::start(&["--cores", "0", "--listen", &both]);
    // A file that somebody else has put there since.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert_eq!(server.stop(), 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let said = refusal(&unix);
    assert!(said.contains("not a socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let said = refusal(&format!("unix:{}/none/m.sock", place.text()));
    assert!(said.contains("/none cannot be opened: No such file"), "{said}");
    let said = refusal(&format!("unix:/{}", "x".repeat(200)));
    assert!(said.contains("at most 107"), "{said}");
}

#[test]
fn a_failed_start_leaves_no_socket() {
    let place = place("unix-failed");
    let path = place.0.join("m.sock");
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(BINARY)
        .args(["serve", "--store", "memory", "--cores", "0", "--listen"])
        .arg(format!("unix:{}", path.display()))
        .args(["--control-listen", &occupied.local_addr().unwrap().to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot serve the control port"), "{said}");
    assert!(!path.exists(), "{said}");
}

#[test]
fn one_socket_serves_ipv4_and_ipv6_and_shows_each_client_at_its_own_address() {
    let server = Server::start(&["--cores", "0", "--listen", "[::]:0", "--proxy-from", "127.0.0.2"]);
    let v4 = peer_of(&server, server.dial(), b"", "four");
    assert!(v4.starts_with("127.0.0.1:"), "{v4}");
    let v6 = peer_of(&server, connect((Ipv6Addr::LOCALHOST, server.port)), b"", "six");
    assert!(v6.starts_with("[::1]:"), "{v6}");
    others_are_served(&server);
    // The networks of proxies match the IPv4 address, too.
    let proxies = Server::start(&["--cores", "0", "--listen", "[::]:0", "--proxy-from", "127.0.0.0/8"]);
    assert_eq!(peer_of(&proxies, proxies.dial(), V1, "proxied"), "203.0.113.9:4660");
    let v6 = peer_of(&proxies, connect((Ipv6Addr::LOCALHOST, proxies.port)), b"", "direct");
    assert!(v6.starts_with("[::1]:"), "{v6}");
}

#[test]
fn a_header_of_a_proxy_names_the_client() {
    let server = Server::start(&["--cores", "0-1", "--proxy-from", "127.0.0.0/8"]);
    for (number, (header, client)) in [
        (V1, "203.0.113.9:4660"),
        (V2, "203.0.113.9:4660"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "[2001:db8::7]:1"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", "203.0.113.9:1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1:"),
        (b"PROXY UNKNOWN 1.2.3.4 anything\r\n", "127.0.0.1:"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1:"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x02ab", "127.0.0.1:"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0", "127.0.0.1:"),
    ]
    .into_iter()
    .enumerate()
    {
        let peer = peer_of(&server, server.dial(), header, &format!("page-{number}"));
        assert!(peer.starts_with(client), "{peer} for {}", String::from_utf8_lossy(header));
    }
    // Everything works behind the header.
    let mut stream = server.dial();
    stream.write_all(&[V2, handshake("/", "").as_bytes()].concat()).unwrap();
    assert_eq!(status(&response(&mut stream)), 101);
    let mut client = Client::after_handshake(stream);
    client.begin(&append("q"));
    assert_eq!(code(&client.receive_as::<ProduceSetupResponse>().status), 100);
    assert_eq!(refused_headers(&server), 0);
}

#[test]
fn a_header_may_be_cut_anywhere() {
    let server = Server::start(&["--cores", "0", "--proxy-from", "127.0.0.1"]);
    for header in [V1, V2, b"PROXY UNKNOWN\r\n"] {
        for cut in 0..header.len() + 4 {
            assert!(is_accepted(&server, header, cut), "{cut} of {}", String::from_utf8_lossy(header));
        }
        let mut stream = server.dial();
        for byte in [header, handshake("/", "").as_bytes()].concat() {
            stream.write_all(&[byte]).unwrap();
        }
        assert_eq!(status(&response(&mut stream)), 101);
    }
    assert_eq!(refused_headers(&server), 0);
}

#[test]
fn a_proxy_without_a_valid_header_is_closed_counted_and_logged_once() {
    let server = Server::start(&["--cores", "0", "--proxy-from", "10.0.0.0/8,127.0.0.0/8"]);
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let refused: [&[u8]; 7] = [
        handshake("/", "").as_bytes().to_vec().leak(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 70000 1\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1\r\nGET / HTTP/1.1\r\n",
        long.as_bytes(),
    ];
    for bytes in refused {
        assert_closed(&server, bytes);
    }
    eventually("all are counted", || (refused_headers(&server) == 7).then_some(()));
    let lines: Vec<String> =
        server.log().into_iter().filter(|line| line.contains("remove it from proxy_from")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("peer=127.0.0.1:") && lines[0].contains("no PROXY header"), "{lines:?}");
    // A load balancer's check of the port sends nothing.
    drop(server.dial());
    eventually("it is gone", || (server.metric("millstream_connections{") == 0).then_some(()));
    assert_eq!(refused_headers(&server), 7);
    assert!(is_accepted(&server, V1, 0));
}

#[test]
fn a_forged_header_from_elsewhere_fails_the_handshake() {
    for proxies in ["", "10.0.0.0/8,::/0,unix"] {
        let server = Server::start(&["--cores", "0", "--proxy-from", proxies]);
        for header in [V1, V2] {
            let mut stream = server.dial();
            stream.write_all(&[header, handshake("/", "").as_bytes()].concat()).unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).unwrap();
            assert!(text.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&text));
        }
        let peer = peer_of(&server, server.dial(), b"", "plain");
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
        assert_eq!(refused_headers(&server), 0);
    }
}

#[test]
fn a_header_and_its_request_have_the_time_of_a_handshake() {
    let server =
        Server::start(&["--cores", "0", "--proxy-from", "127.0.0.0/8", "--handshake-timeout", "500ms"]);
    // Neither the acceptor nor the shard waits for those.
    let silent: Vec<TcpStream> = (0..20).map(|_| server.dial()).collect();
    assert!(is_accepted(&server, V2, 0));
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "a silent proxy gets no answer");
    }
    assert_closed(&server, &V1[..V1.len() - 1]);
    assert_closed(&server, &V2[..20]);
    let mut late = server.dial();
    late.write_all(V1).unwrap();
    assert_eq!(status(&response(&mut late)), 408);
    assert_eq!(refused_headers(&server), 22);
    // An incomplete header does not hold up the stop.
    let mut half = server.dial();
    half.write_all(&V2[..20]).unwrap();
    eventually("the connection is counted", || (server.metric("millstream_connections{") > 0).then_some(()));
    assert_eq!(server.stop(), 0);
    assert_eq!(half.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_proxy_at_a_unix_socket_names_its_clients() {
    let place = place("unix-proxy");
    let path = place.0.join("m.sock");
    let listen = format!("127.0.0.1:0,unix:{}", path.display());
    let server = Server::start(&["--cores", "0", "--listen", &listen, "--proxy-from", "unix"]);
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(peer_of(&server, stream, V1, "behind"), "203.0.113.9:4660");
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(peer_of(&server, stream, b"PROXY UNKNOWN\r\n", "itself"), "unix");
    others_are_served(&server);
}
