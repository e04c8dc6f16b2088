//! Tests the real binary under a service manager: sockets that outlive it, and what it says about itself.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{
    BINARY, Client, Server, append, consume, eventually, handshake, others_are_served, response, spawn,
    status,
};
use place::Place;

/// Returns a command that runs the binary as systemd would, with these sockets and their names.
fn with_sockets(listen: impl Into<OwnedFd>, control: impl Into<OwnedFd>, names: &str) -> Command {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, BINARY]).env("LISTEN_FDNAMES", names);
    shell.stdin(listen.into()).stdout(Stdio::from(control.into()));
    shell
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn newcomers_wait_while_a_server_restarts_and_nothing_is_lost() {
    let data = Place::new("restart");
    let (listen, control) = (listener(), listener());
    let start = || {
        let command =
            with_sockets(listen.try_clone().unwrap(), control.try_clone().unwrap(), "listen:control");
        let log = ["--store", "log", "--data-dir", data.text(), "--log-segment-bytes", "16MiB"];
        let server = Server::start_by(command, &[&["--cores", "0"], &log[..]].concat());
        assert_eq!(server.port, listen.local_addr().unwrap().port());
        assert_eq!(server.control, control.local_addr().unwrap().port());
        server
    };
    let mut server = start();
    let mut producing = spawn(server.run(&["produce", "kept"]));
    let mut input = producing.stdin.take().unwrap();
    let address = listen.local_addr().unwrap();
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Fails the test with ECONNREFUSED or ECONNRESET.
                    let mut stream = TcpStream::connect(address).expect("a newcomer is refused");
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    stream.write_all(handshake("/", "").as_bytes()).unwrap();
                    match status(&response(&mut stream)) {
                        101 => served.fetch_add(1, Ordering::Relaxed),
                        // The server had accepted it when the drain began.
                        503 => 0,
                        other => panic!("{other}"),
                    };
                }
            });
        }
        for round in 0..3 {
            let before = served.load(Ordering::Relaxed);
            eventually("newcomers that are served", || {
                (served.load(Ordering::Relaxed) >= before + 20).then_some(())
            });
            for number in 0..100 {
                writeln!(input, "{round}-{number}").unwrap();
            }
            server.signal("TERM");
            assert_eq!(server.ended_within(Duration::from_secs(30)).code(), Some(0));
            // No server runs.
            let mut between = TcpStream::connect(address).expect("a newcomer between two servers is refused");
            between.write_all(handshake("/", "").as_bytes()).unwrap();
            server = start();
            between.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            assert_eq!(status(&response(&mut between)), 101);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(input);
    let output = producing.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (lines, _) = consume(server.run(&["consume", "kept", "--exit-at-end"]));
    let kept: HashSet<String> = lines.into_iter().collect();
    let sent = (0..3).flat_map(|round| (0..100).map(move |number| format!("{round}-{number}")));
    assert_eq!(kept, sent.collect());
    assert_eq!(server.control("/readyz").0, 200);
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_passed_socket_replaces_only_addresses_of_tcp() {
    let place = Place::new("beside");
    let path = place.0.join("m.sock");
    let (listen, elsewhere) = (listener(), listener().local_addr().unwrap());
    let command = with_sockets(listen.try_clone().unwrap(), listener(), "listen:control");
    let both = format!("{elsewhere},unix:{}", path.display());
    let server = Server::start_by(command, &["--cores", "0", "--listen", &both]);
    let passed = listen.local_addr().unwrap();
    assert_eq!(server.port, passed.port());
    let warning = server.wait_for_log("the service manager passed a socket");
    assert!(warning.contains(&elsewhere.to_string()) && warning.contains(&passed.to_string()), "{warning}");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(handshake("/", "").as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn a_control_socket_contradicts_control_listen_off() {
    let mut command = with_sockets(listener(), listener(), "listen:control");
    command.args(["serve", "--cores", "0", "--store", "memory", "--control-listen", "off"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("control was passed, but control_listen = off"), "{said}");
}

#[test]
fn sockets_that_cannot_be_used_are_refused_with_a_remedy() {
    let refused = |mut command: Command, words: &str| {
        let output = command.args(["serve", "--cores", "0", "--store", "memory"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    };
    refused(with_sockets(listener(), listener(), "listen:other"), "FileDescriptorName=");
    refused(with_sockets(listener(), listener(), "listen:listen"), "two sockets named listen");
    refused(with_sockets(listener(), listener(), ""), "FileDescriptorName=");
    let path = std::env::temp_dir().join(format!("millstream-systemd-{}.sock", std::process::id()));
    let unix = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    refused(with_sockets(unix, listener(), "listen:control"), "an address and a port");
    let file = std::fs::File::open("/dev/null").unwrap();
    refused(with_sockets(file, listener(), "listen:control"), "is no socket");
    let mut none = Command::new("sh");
    none.args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"", BINARY]);
    refused(none, "descriptor 3 was not passed");
}

#[test]
fn sockets_for_another_process_are_not_touched() {
    let mut command = Command::new(BINARY);
    command.envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "listen")]);
    let server = Server::start_by(command, &["--cores", "0"]);
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
}

/// A service manager that records what it is told, and when.
struct Manager {
    socket: UnixDatagram,
    address: String,
    path: Option<PathBuf>,
    heard: Vec<(Instant, String)>,
}

impl Manager {
    fn at_path(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millstream-manager-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::of(socket, path.to_str().unwrap().to_owned(), Some(path))
    }

    fn at_name(name: &str) -> Self {
        let name = format!("millstream-manager-{}-{name}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        Self::of(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"), None)
    }

    fn of(socket: UnixDatagram, address: String, path: Option<PathBuf>) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, address, path, heard: Vec::new() }
    }

    fn start(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Server {
        let mut command = Command::new(BINARY);
        command.env("NOTIFY_SOCKET", &self.address).envs(variables.iter().copied());
        Server::start_by(command, &[&["--cores", "0"], arguments].concat())
    }

    /// Waits for the next message. Returns `None` if none comes in time.
    fn hear(&mut self) -> Option<String> {
        let mut said = [0; 4096];
        match self.socket.recv(&mut said) {
            Ok(length) => {
                let text = String::from_utf8(said[..length].to_vec()).unwrap();
                self.heard.push((Instant::now(), text.clone()));
                Some(text)
            }
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message with this line. Returns the whole message.
    fn await_line(&mut self, line: &str) -> String {
        loop {
            let Some(said) = self.hear() else { panic!("{line} never came: {:?}", self.heard) };
            if said.lines().any(|one| one == line) {
                return said;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn the_service_manager_hears_of_each_step() {
    for mut manager in [Manager::at_path("steps"), Manager::at_name("steps")] {
        let server = manager.start(&[], &["--drain-announce", "1h"]);
        manager.await_line("STATUS=starting");
        let ready = manager.await_line("READY=1");
        assert!(ready.contains("STATUS=serving"), "{ready}");
        others_are_served(&server);
        server.signal("HUP");
        let reloading = manager.await_line("RELOADING=1");
        let usec = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
        manager.await_line("READY=1");
        server.signal("TERM");
        let stopping = manager.await_line("STOPPING=1");
        // The announcement, drain_timeout, and ten seconds.
        assert!(stopping.lines().any(|line| line == "EXTEND_TIMEOUT_USEC=3640000000"), "{stopping}");
        assert!(stopping.contains("STATUS=about to drain"), "{stopping}");
        server.signal("TERM");
        let draining = manager.await_line("STATUS=draining");
        assert!(draining.lines().any(|line| line == "EXTEND_TIMEOUT_USEC=40000000"), "{draining}");
        assert_eq!(server.wait(), 0);
        let told = |line: &str| manager.heard.iter().filter(|(_, said)| said.contains(line)).count();
        assert_eq!((told("READY=1"), told("WATCHDOG=1")), (2, 0), "{:?}", manager.heard);
    }
}

#[test]
fn a_long_start_gets_more_time_only_while_it_reads_on() {
    let data = Place::new("start");
    let log = ["--cores", "0", "--store", "log", "--data-dir", data.text(), "--log-segment-bytes", "16MiB"];
    let server = Server::start(&log);
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
    // This pipe is the log's next file. A read of it waits until another process writes.
    let pipe = data.0.join("00000001.segment");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut manager = Manager::at_path("start");
    let mut child = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--control-listen", "off"])
        .args(log)
        .env("NOTIFY_SOCKET", &manager.address)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let progress = manager.await_line("EXTEND_TIMEOUT_USEC=60000000");
    assert!(progress.contains("STATUS=reading the log: "), "{progress}");
    let stuck = manager.hear().unwrap();
    assert!(stuck.starts_with("STATUS=reading the log: ") && !stuck.contains("EXTEND"), "{stuck}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_failed_reload_is_shown_as_the_status() {
    let path = std::env::temp_dir().join(format!("millstream-status-{}.toml", std::process::id()));
    std::fs::write(&path, "max_connections = 5\n").unwrap();
    let mut manager = Manager::at_path("status");
    let server = manager.start(&[], &["--config", path.to_str().unwrap()]);
    manager.await_line("READY=1");
    std::fs::write(&path, "max_connections = 0\n").unwrap();
    server.signal("HUP");
    manager.await_line("RELOADING=1");
    let ready = manager.await_line("READY=1");
    assert!(ready.contains("STATUS=serving; the last reload failed: max_connections (from "), "{ready}");
    std::fs::remove_file(path).unwrap();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_stalled_shard_silences_the_watchdog_until_it_runs_again() {
    let mut manager = Manager::at_path("watchdog");
    let server = manager.start(&[("WATCHDOG_USEC", "400000")], &["--test-faults", "true"]);
    manager.await_line("READY=1");
    for _ in 0..3 {
        manager.await_line("WATCHDOG=1");
    }
    let mut client = Client::connect(&server);
    client.begin(&append("stall-shard"));
    // The shard stands still for three seconds.
    let mut last = Instant::now();
    let silence = loop {
        manager.await_line("WATCHDOG=1");
        let silence = last.elapsed();
        last = Instant::now();
        if silence > Duration::from_secs(2) {
            break silence;
        }
    };
    assert!(silence < Duration::from_secs(30), "{silence:?}");
    manager.await_line("WATCHDOG=1");
    server.wait_for_log("shard stands still");
}

#[test]
fn a_stall_shorter_than_the_watchdogs_time_is_survived() {
    let mut manager = Manager::at_path("survived");
    // The shard stands still for three seconds of the four.
    let server = manager.start(&[("WATCHDOG_USEC", "4000000")], &["--test-faults", "true"]);
    manager.await_line("READY=1");
    let mut client = Client::connect(&server);
    manager.await_line("WATCHDOG=1");
    client.begin(&append("stall-shard"));
    let mut last = Instant::now();
    let silence = loop {
        manager.await_line("WATCHDOG=1");
        let silence = last.elapsed();
        assert!(silence < Duration::from_secs(4), "{silence:?}");
        last = Instant::now();
        if silence > Duration::from_secs(1) {
            break silence;
        }
    };
    assert!(silence > Duration::from_secs(1));
    server.wait_for_log("shard stands still");
}

#[test]
fn a_watchdog_of_another_process_is_ignored() {
    let mut manager = Manager::at_path("other");
    let variables = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let server = manager.start(&variables, &[]);
    manager.await_line("READY=1");
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
    manager.socket.set_nonblocking(true).unwrap();
    while manager.hear().is_some() {}
    assert!(manager.heard.iter().all(|(_, said)| !said.contains("WATCHDOG=1")), "{:?}", manager.heard);
}

#[test]
fn a_manager_that_is_gone_does_not_disturb_the_server() {
    let mut command = Command::new(BINARY);
    command.env("NOTIFY_SOCKET", "/nowhere/notify").env("WATCHDOG_USEC", "100000");
    let server = Server::start_by(command, &["--cores", "0"]);
    server.wait_for_log("the service manager cannot be told");
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
}
