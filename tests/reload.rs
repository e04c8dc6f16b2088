//! Tests the reload of settings on the real binary: by SIGHUP, by `POST /reload` and by `millstream reload`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{
    BINARY, Client, Neighbour, Server, append, code, eventually, handshake, others_are_served, producer,
    request, response, status,
};
use millstream::pb::{ProduceResponse, ProduceSetupResponse};
use std::io::Write;

/// A configuration file, removed at the end of the test.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millstream-reload-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // Fails if the test has removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn start(file: &ConfigFile, more: &[&str]) -> Server {
    Server::start(&[&["--cores", "0-1", "--config", file.path()], more].concat())
}

fn reload(server: &Server) -> (u16, String) {
    server.ask_control("POST /reload", "")
}

/// Reloads, and returns the page.
fn reloaded(server: &Server) -> serde_json::Value {
    let (status, text) = reload(server);
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Returns a setting as `/info` shows it.
fn setting(server: &Server, key: &str) -> String {
    let page: serde_json::Value = serde_json::from_str(&server.control("/info").1).unwrap();
    page["settings"][key].as_str().unwrap().to_owned()
}

fn keys(list: &serde_json::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one.as_str().or(one["key"].as_str()).unwrap()).collect()
}

/// Returns the status of a handshake with this origin.
fn handshake_from(server: &Server, origin: &str) -> u16 {
    let mut stream = server.dial();
    stream.write_all(handshake("/", &format!("Origin: {origin}\r\n")).as_bytes()).unwrap();
    status(&response(&mut stream))
}

fn command(server: &Server, more: &[&str]) -> Output {
    let control = format!("http://127.0.0.1:{}", server.control);
    Command::new(BINARY).args(["reload", "--control", &control]).args(more).output().unwrap()
}

#[test]
fn limits_and_origins_change_while_connections_go_on() {
    let file = ConfigFile::new("limits", "partitions = 2\n");
    let server = start(&file, &[]);
    let neighbour = Neighbour::beside(&server);
    neighbour.await_served(10);
    let mut open = producer(&server, "open");
    assert_eq!(handshake_from(&server, "https://console.example"), 403);
    file.write(
        "partitions = 3\nproject_max_operations = 1\nallowed_origins = [\"https://console.example\"]\n\
         max_connections = 100\n",
    );
    let page = reloaded(&server);
    assert_eq!(keys(&page["applied"]), ["allowed_origins", "max_connections", "project_max_operations"]);
    assert_eq!(keys(&page["needs_restart"]), ["partitions"]);
    assert_eq!(page["unconfirmed_shards"], serde_json::json!([]));
    assert_eq!(handshake_from(&server, "https://console.example"), 101);
    // The operations that were open before the limit count, and stay.
    let mut refused = Client::connect(&server);
    refused.begin(&append("refused"));
    let setup: ProduceSetupResponse = refused.receive_as();
    assert_eq!(code(&setup.status), 429, "{setup:?}");
    open.send(&request(Some(60), &[b"still served"]));
    let answer: ProduceResponse = open.receive_as();
    assert_eq!(code(&answer.status), 201);
    assert_eq!(
        (setting(&server, "max_connections"), setting(&server, "partitions")),
        ("100".into(), "2".into()),
        "what runs is shown"
    );
    // A limit that is removed no longer applies.
    file.write("partitions = 3\n");
    assert_eq!(keys(&reloaded(&server)["needs_restart"]), ["partitions"], "it is named again");
    assert_eq!(handshake_from(&server, "https://console.example"), 403);
    others_are_served(&server);
    let served = neighbour.leave();
    assert!(served.len() >= 10);
    assert_eq!(server.metric("millstream_reloads_total{result=\"applied\"}"), 2);
    assert_eq!(server.metric("millstream_reloads_total{result=\"failed\"}"), 0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_shorter_idle_timeout_pings_silent_clients_before_it_gives_them_up() {
    let file = ConfigFile::new("times", "idle_timeout = \"90s\"\n");
    let server = start(&file, &[]);
    let mut silent = Client::connect(&server);
    // Silent for longer than the new timeout.
    std::thread::sleep(Duration::from_millis(1_500));
    file.write("ping_interval = \"400ms\"\nidle_timeout = \"1200ms\"\n");
    let began = Instant::now();
    assert_eq!(keys(&reloaded(&server)["applied"]), ["ping_interval", "idle_timeout"]);
    let (_, opcode, _) = silent.read_frame();
    assert_eq!(opcode, 9, "a ping, not a Close");
    assert_eq!(silent.close_code(), 1001);
    assert!((Duration::from_millis(1_100)..Duration::from_secs(15)).contains(&began.elapsed()));
}

#[test]
fn the_proxies_change() {
    let file = ConfigFile::new("proxies", "proxy_from = \"\"\n");
    let server = start(&file, &[]);
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";
    let with_header = || {
        let mut stream = server.dial();
        stream.write_all(format!("{header}{}", handshake("/", "")).as_bytes()).unwrap();
        status(&response(&mut stream))
    };
    assert_eq!(with_header(), 400);
    file.write("proxy_from = \"127.0.0.0/8\"\n");
    assert_eq!(keys(&reloaded(&server)["applied"]), ["proxy_from"]);
    assert_eq!(with_header(), 101);
    file.write("proxy_from = \"10.0.0.0/8\"\n");
    assert_eq!(keys(&reloaded(&server)["applied"]), ["proxy_from"]);
    assert_eq!(with_header(), 400);
}

#[test]
fn sighup_reloads_too_and_changes_the_log() {
    let file = ConfigFile::new("sighup", "log = \"millstream=info\"\n");
    let server = start(&file, &[]);
    file.write("log = \"millstream=error\"\n");
    server.signal("HUP");
    eventually("the new filter", || (setting(&server, "log") == "millstream=error").then_some(()));
    file.write("log = \"millstream=info,warn\"\n");
    server.signal("HUP");
    server.wait_for_log("setting changed");
    server.wait_for_log("settings reloaded");
    assert_eq!(server.metric("millstream_reloads_total{result=\"applied\"}"), 2);
    let said = server.log();
    let count = said.iter().filter(|line| line.contains("settings reloaded")).count();
    assert_eq!(count, 1, "the first reload was silent: {said:?}");
}

#[test]
fn settings_that_cannot_be_used_change_nothing() {
    let good = "idle_timeout = \"80s\"\nmax_connections = 500\n";
    let file = ConfigFile::new("bad", good);
    let server = start(&file, &[]);
    let mut failed = 0;
    let mut refused = |words: &[&str]| {
        let (status, text) = reload(&server);
        assert_eq!(status, 422, "{text}");
        for words in words {
            assert!(text.contains(words), "{text:?} does not say {words:?}");
        }
        assert!(text.starts_with("nothing is changed: "), "{text}");
        assert_eq!(setting(&server, "max_connections"), "500");
        assert_eq!(setting(&server, "idle_timeout"), "80s");
        failed += 1;
        assert_eq!(server.metric("millstream_reloads_total{result=\"failed\"}"), failed);
    };
    file.write("max_connections = 7\nidle_timeout = \"soon\"\n");
    refused(&["idle_timeout (from ", file.path(), "a duration like"]);
    file.write("max_connections = 7\nidle_timout = \"80s\"\n");
    refused(&["idle_timout", "the nearest is idle_timeout"]);
    file.write("max_connections = 7\nidle_timeout = \"");
    refused(&[file.path(), "TOML parse error at line 2"]);
    file.write("max_connections = 7\nidle_timeout = \"20s\"\n");
    refused(&["ping_interval", "idle_timeout"]);
    file.write("");
    refused(&[file.path(), "half written"]);
    std::fs::remove_file(&file.0).unwrap();
    refused(&[file.path(), "No such file"]);
    std::fs::create_dir(&file.0).unwrap();
    refused(&[file.path(), "not a regular file"]);
    std::fs::remove_dir(&file.0).unwrap();
    let made = Command::new("mkfifo").arg(file.path()).status().unwrap();
    assert!(made.success());
    refused(&[file.path(), "not a regular file"]);
    std::fs::remove_file(&file.0).unwrap();
    file.write("max_connections = 500\nidle_timeout = \"70s\"\n");
    assert_eq!(keys(&reloaded(&server)["applied"]), ["idle_timeout"]);
    others_are_served(&server);
    assert_eq!(server.stop(), 0);
}

#[test]
fn flags_and_variables_still_override_the_file() {
    let file = ConfigFile::new("flags", "max_connections = 500\n");
    let server = start(&file, &["--max-connections", "600"]);
    file.write("max_connections = 700\n");
    assert_eq!(reloaded(&server)["applied"], serde_json::json!([]));
    assert_eq!(setting(&server, "max_connections"), "600");
}

#[test]
fn only_a_post_of_no_foreign_page_reloads() {
    let file = ConfigFile::new("foreign", "max_connections = 500\n");
    let server = start(&file, &[]);
    file.write("max_connections = 400\n");
    assert_eq!(server.control("/reload").0, 405);
    assert_eq!(server.ask_control("POST /reload", "Origin: http://evil.example\r\n").0, 403);
    assert_eq!(server.ask_control("POST /reload", "Sec-Fetch-Site: cross-site\r\n").0, 403);
    assert_eq!(setting(&server, "max_connections"), "500");
    assert_eq!(server.metric("millstream_reloads_total"), 0);
}

#[test]
fn a_stalled_shard_is_named_and_nothing_changes() {
    let file = ConfigFile::new("stalled", "max_connections = 500\n");
    let server = Server::start(&["--cores", "0", "--config", file.path(), "--test-faults", "true"]);
    let mut client = Client::connect(&server);
    client.begin(&append("stall-shard"));
    file.write("max_connections = 400\n");
    eventually("the stall", || (server.control("/healthz").0 == 503).then_some(()));
    let (status, text) = reload(&server);
    assert_eq!((status, &text[..]), (503, "nothing is changed: shard 0 did not answer within 1s\n"));
    assert_eq!(setting(&server, "max_connections"), "500");
    eventually("the shard runs again", || (server.control("/healthz").0 == 200).then_some(()));
    assert_eq!(keys(&reloaded(&server)["applied"]), ["max_connections"]);
}

#[test]
fn reloads_at_the_same_time_are_served_one_after_another() {
    let file = ConfigFile::new("many", "max_connections = 500\n");
    let server = start(&file, &[]);
    file.write("max_connections = 400\n");
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| reload(&server))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let applied = answers.iter().filter(|(_, text)| text.contains("max_connections")).count();
    assert_eq!(applied, 1, "only one finds the change: {answers:?}");
    for (status, text) in &answers {
        assert!(*status == 200 || text.contains("reloads wait already"), "{status}: {text}");
    }
    assert_eq!(setting(&server, "max_connections"), "400");
}

#[test]
fn the_command_says_what_changed() {
    let file = ConfigFile::new("command", "max_connections = 500\n");
    let server = start(&file, &[]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    file.write("max_connections = 400\npartitions = 3\n");
    let output = command(&server, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "max_connections: \"500\" is now \"400\"\npartitions: changed, but needs a restart\n"
    );
    let output = command(&server, &["--json"]);
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((keys(&page["applied"]).len(), keys(&page["needs_restart"])), (0, vec!["partitions"]));
    file.write("max_connections = 0\n");
    let output = command(&server, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing is changed: max_connections (from "), "{output:?}");
    let nobody = Command::new(BINARY).args(["reload", "--control", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(2));
}

#[test]
fn a_server_that_announces_its_drain_serves_newcomers_until_it_drains() {
    let server = Server::start(&["--cores", "0", "--drain-announce", "1h"]);
    assert_eq!(server.control("/readyz").0, 200);
    server.signal("TERM");
    eventually("not ready", || (server.control("/readyz") == (503, "drains soon\n".into())).then_some(()));
    assert_eq!(server.control("/healthz").0, 200);
    assert_eq!(server.metric("millstream_draining"), 0);
    others_are_served(&server);
    assert_eq!(reload(&server), (503, "nothing is changed: the server is draining\n".into()));
    // The second signal ends the announcement, and is no second signal of the drain.
    server.signal("TERM");
    assert_eq!(server.wait(), 0);
    let server = Server::start(&["--cores", "0", "--drain-announce", "300ms"]);
    let began = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_reload_changes_how_a_server_ends() {
    let file = ConfigFile::new("announce", "drain_announce = \"1h\"\n");
    let server = start(&file, &[]);
    file.write("drain_announce = \"0s\"\n");
    assert_eq!(keys(&reloaded(&server)["applied"]), ["drain_announce"]);
    assert_eq!(server.stop(), 0);
    assert!(Path::new(file.path()).exists());
}

#[test]
fn more_connections_than_open_files_allow_are_a_warning() {
    let file = ConfigFile::new("files", "max_connections = 20\n");
    let server = Server::start_with_files(500, &["--cores", "0", "--config", file.path()]);
    assert_eq!(reloaded(&server)["warnings"], serde_json::json!([]));
    file.write("max_connections = 20000\n");
    let page = reloaded(&server);
    assert_eq!(keys(&page["applied"]), ["max_connections"]);
    let warning = page["warnings"][0].as_str().unwrap();
    assert!(warning.contains("only 500 files may be open"), "{warning}");
}
