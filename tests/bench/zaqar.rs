//! Tests `millstream bench zaqar` against a small server of the Zaqar API that makes mistakes on request.

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use millstream::load::zaqar::Report;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::common::{BINARY, Server};

/// A mistake of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Answers every tenth post with this status.
    Refuse(u16),
    /// Answers that do not repeat the body of the request.
    WrongEcho,
    /// Answers a post with text that is no answer, after the first 100.
    Junk,
    /// Answers a post twice, after the first 100.
    Twice,
    /// Does not answer after the first 100 posts.
    Silence,
    /// Sends no notification of the message with this number.
    Lose(usize),
    /// Sends the notification of the message with this number twice.
    Repeat(usize),
    /// Refuses everything until this token was shown.
    WantToken(&'static str),
}

#[derive(Default)]
struct Store {
    messages: VecDeque<(String, Value)>,
    posts: usize,
    posted: usize,
    /// Half a second in which nothing is answered, once it has begun.
    stall: Option<Instant>,
    subscribers: Vec<Sender<Value>>,
}

struct Scripted {
    url: String,
    store: Arc<Mutex<Store>>,
}

const STALL: Duration = Duration::from_millis(500);

impl Scripted {
    /// Starts a server that ends with the process.
    fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let store = Arc::new(Mutex::new(Store::default()));
        let shared = store.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let store = shared.clone();
                std::thread::spawn(move || Connection::new(stream.unwrap(), store, fault).serve());
            }
        });
        Self { url, store }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        bench(&self.url, arguments)
    }

    /// Runs a load that must succeed.
    fn sound(&self, arguments: &[&str]) -> Report {
        let output = self.bench(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        report(&output)
    }

    /// Runs a load that must fail. Returns what it wrote to standard error.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.bench(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Runs `bench zaqar` on a server.
fn bench(url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["bench", "zaqar", "--url", url, "--warmup", "0", "-o", "json"]).args(arguments);
    if !arguments.contains(&"--seconds") {
        command.args(["--seconds", "0.5"]);
    }
    command.env_remove("MILLSTREAM_TOKEN").output().unwrap()
}

fn report(output: &Output) -> Report {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A connection to the server.
struct Connection {
    socket: WebSocket<TcpStream>,
    store: Arc<Mutex<Store>>,
    fault: Fault,
    is_known: bool,
    notifications: (Sender<Value>, Receiver<Value>),
    is_text: bool,
}

impl Connection {
    fn new(stream: TcpStream, store: Arc<Mutex<Store>>, fault: Fault) -> Self {
        stream.set_nodelay(true).unwrap();
        let socket = tungstenite::accept(stream).unwrap();
        // Between requests it looks for notifications.
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        Self { socket, store, fault, is_known: false, notifications: channel(), is_text: true }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Serves until the client leaves.
    fn serve(mut self) {
        loop {
            let notifications: Vec<Value> = self.notifications.1.try_iter().collect();
            for notification in notifications {
                self.send(&notification);
            }
            let request = match self.socket.read() {
                Ok(Message::Text(text)) => {
                    self.is_text = true;
                    serde_json::from_str(&text).unwrap()
                }
                Ok(Message::Binary(bytes)) => {
                    self.is_text = false;
                    rmp_serde::from_slice(&bytes).unwrap()
                }
                Ok(_) => continue,
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    continue;
                }
                Err(_) => return,
            };
            self.handle(&request);
        }
    }

    /// Sends a value. Fails if the client has left, which the next read finds.
    fn send(&mut self, value: &Value) {
        let message = if self.is_text {
            Message::text(value.to_string())
        } else {
            Message::binary(rmp_serde::to_vec(value).unwrap())
        };
        let _ = self.socket.send(message);
    }

    fn handle(&mut self, request: &Value) {
        let stall = self.store().stall;
        if let Some(left) = stall.and_then(|at| STALL.checked_sub(at.elapsed())) {
            std::thread::sleep(left);
        }
        let action = request["action"].as_str().unwrap();
        let (status, body) = self.answer(action, request);
        let mut echo =
            json!({"action": action, "body": request["body"], "headers": request["headers"], "api": "v2"});
        if action == "authenticate" {
            (echo["body"], echo["headers"]) = (json!({}), json!({}));
        }
        if self.fault == Fault::WrongEcho {
            echo["body"]["more"] = json!(1);
        }
        let answer = json!({"request": echo, "body": body, "headers": {"status": status}});
        let is_late = action == "message_post" && self.store().posts > 100;
        match self.fault {
            Fault::Junk if is_late => self.send(&json!(["no answer"])),
            Fault::Silence if is_late => {}
            Fault::Twice if is_late => {
                self.send(&answer);
                self.send(&answer);
            }
            _ => self.send(&answer),
        }
    }

    fn answer(&mut self, action: &str, request: &Value) -> (u16, Value) {
        let body = &request["body"];
        if let Fault::WantToken(token) = self.fault {
            if action == "authenticate" {
                self.is_known = request["headers"]["X-Auth-Token"] == token;
                return if self.is_known {
                    (200, json!({"message": "Authentified."}))
                } else {
                    // It repeats the token, as a proxy might.
                    (401, json!({"error": format!("wrong: {}", request["headers"]["X-Auth-Token"])}))
                };
            }
            if !self.is_known {
                return (403, json!({"error": "Not authentified."}));
            }
        }
        assert_eq!(request["headers"]["X-Project-ID"], "bench");
        let fault = self.fault;
        let mut store = self.store.lock().unwrap();
        let shown = |(id, body): &(String, Value)| json!({"id": id, "body": body, "ttl": 60, "age": 0});
        match action {
            "queue_create" => (201, json!("Queue created.")),
            "subscription_create" => {
                store.subscribers.push(self.notifications.0.clone());
                (201, json!({"subscription_id": "s"}))
            }
            "message_post" => {
                store.posts += 1;
                if let Fault::Refuse(status) = fault
                    && store.posts.is_multiple_of(10)
                {
                    return (status, json!({"error": "too busy", "exception": null}));
                }
                let mut ids = Vec::new();
                for message in body["messages"].as_array().unwrap() {
                    let number = store.posted;
                    store.posted += 1;
                    let copies = match fault {
                        Fault::Lose(lost) if lost == number => 0,
                        Fault::Repeat(repeated) if repeated == number => 2,
                        _ => 1,
                    };
                    let notification = json!({"body": message["body"], "ttl": 60, "queue_name": "bench", "Message_Type": "Notification"});
                    for subscriber in &store.subscribers {
                        // A subscriber that has left needs none.
                        (0..copies).for_each(|_| drop(subscriber.send(notification.clone())));
                    }
                    let id = format!("id-{number}");
                    store.messages.push_back((id.clone(), message["body"].clone()));
                    ids.push(id);
                }
                (201, json!({"message_ids": ids}))
            }
            "message_list" => {
                let page: Vec<Value> = store.messages.iter().take(10).map(shown).collect();
                (200, json!({"messages": page}))
            }
            "message_get" => match store.messages.iter().find(|(id, _)| body["message_id"] == **id) {
                Some(message) => (200, json!({"messages": shown(message)})),
                None => (404, json!({"error": "no such message"})),
            },
            // What is claimed is always deleted, so it may leave the queue at once.
            "claim_create" if store.messages.is_empty() => (204, json!({"claim_id": null})),
            "claim_create" => {
                let count = store.messages.len().min(10);
                let claimed: Vec<Value> =
                    store.messages.drain(..count).map(|message| shown(&message)).collect();
                (201, json!({"claim_id": "c", "messages": claimed}))
            }
            "message_delete" => {
                store.messages.retain(|(id, _)| body["message_id"] != **id);
                (204, json!({}))
            }
            "message_delete_many" => (204, json!({})),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn each_workload_is_sound_in_both_formats() {
    for format in ["json", "msgpack"] {
        for workload in ["post", "post10", "list", "claim", "get", "delete"] {
            let server = Scripted::start(Fault::None);
            let load =
                [workload, "--format", format, "--connections", "3", "--depth", "4", "--seconds", "0.2"];
            let report = server.sound(&load);
            assert!(report.requests_per_second > 10.0, "{workload} {format}: {report:?}");
            assert!(report.latency.unwrap().count > 0 && report.failures.is_empty());
            let answers: u64 = report.statuses.values().sum();
            // Each connection has posted once before the run, except for what the workload posts beside.
            let posts = server.store().posts as u64;
            match workload {
                "post" | "post10" => assert_eq!((report.requests, answers), (posts - 3, posts - 3)),
                "list" => assert_eq!(report.messages_per_list, Some(10)),
                "get" => assert_eq!((report.requests, posts), (answers, 3)),
                "claim" => {
                    assert_eq!(report.statuses[&204], report.requests + report.empty_claims);
                    let each = report.messages_per_claim.unwrap();
                    assert!((1.0..=10.0).contains(&each), "{each}");
                }
                _ => assert_eq!(report.statuses[&204], report.requests),
            }
        }
    }
}

#[test]
fn each_workload_is_sound_on_the_real_server() {
    let server = Server::start(&["--cores", "0"]);
    let url = format!("ws://127.0.0.1:{}/v2", server.port);
    for format in ["json", "msgpack"] {
        for workload in ["post", "post10", "list", "claim", "get", "delete", "notify"] {
            let queue = format!("{workload}-{format}");
            let mut load = vec![workload, "--format", format, "--queue", &queue, "--depth", "8"];
            if workload == "notify" {
                load.extend(["--subscribers", "20", "--batch", "10"]);
            }
            let output = bench(&url, &load);
            assert_eq!(output.status.code(), Some(0), "{load:?}: {output:?}");
            let report = report(&output);
            assert!(report.requests > 10, "{report:?}");
            assert_eq!(report.messages_per_claim.is_some(), workload == "claim");
            assert_eq!(
                report.verified.received,
                if workload == "notify" { 200 * report.requests } else { 0 }
            );
        }
    }
}

#[test]
fn stock_is_posted_before_the_run() {
    let server = Scripted::start(Fault::None);
    let report =
        server.sound(&["claim", "--connections", "3", "--depth", "1", "--stock", "1000", "--rate", "20"]);
    // 10 before the first claim, and the stock. A load at a low rate needs no further posts.
    assert_eq!(server.store().posted, 3 * 10 + 1_000);
    assert_eq!(report.messages_per_claim, Some(10.0));
    assert!(!report.statuses.contains_key(&200) && report.requests == 10, "{report:?}");
}

#[test]
fn a_stalled_server_cannot_hide_its_latency_from_an_open_loop() {
    let server = Scripted::start(Fault::None);
    let store = server.store.clone();
    std::thread::spawn(move || {
        let running = || store.lock().unwrap().posts > 50;
        while !running() {
            std::thread::yield_now();
        }
        store.lock().unwrap().stall = Some(Instant::now());
    });
    let report = server.sound(&["post", "--rate", "200", "--connections", "2", "--seconds", "2"]);
    let latency = report.latency.unwrap();
    assert_eq!(latency.count, 400, "every request that was due is a sample");
    // A quarter of the requests were due in the half second.
    assert!(latency.p90 >= 200_000_000 && latency.max >= 450_000_000, "{latency:?}");
    assert!(latency.p50 < 100_000_000, "{latency:?}");
}

#[test]
fn refused_requests_are_counted_by_status_and_fail_the_run() {
    for format in ["json", "msgpack"] {
        let server = Scripted::start(Fault::Refuse(503));
        let output = server.bench(&["post", "--format", format, "--connections", "1"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let report = report(&output);
        let (good, bad) = (report.statuses[&201], report.statuses[&503]);
        assert!(bad > 0 && good >= 8 * bad && report.requests == good, "{report:?}");
        assert_eq!(report.failures, ["message_post: 503 too busy"]);
    }
    let server = Scripted::start(Fault::Refuse(503));
    let why = server.fails(&["post", "--connections", "10"]);
    assert!(why.contains("message_post: 503 too busy"), "refused before the run begins: {why}");
}

#[test]
fn answers_that_break_the_protocol_end_the_run() {
    let cases = [
        (Fault::WrongEcho, "does not repeat the body"),
        (Fault::Junk, "an answer that cannot be read"),
        (Fault::Twice, "an answer without a request"),
    ];
    for (fault, words) in cases {
        for format in ["json", "msgpack"] {
            let why = Scripted::start(fault).fails(&[
                "post",
                "--format",
                format,
                "--depth",
                "2",
                "--connections",
                "2",
            ]);
            assert!(why.contains(words), "{fault:?}: {why}");
        }
    }
}

#[test]
fn requests_without_an_answer_fail_the_run() {
    let server = Scripted::start(Fault::Silence);
    let output = server.bench(&["post", "--connections", "2", "--depth", "8"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    assert!(report.failures[0].contains("requests were not answered within 10 s"), "{report:?}");
    assert!(report.latency.unwrap().max >= 9_000_000_000, "they count as late: {report:?}");
}

#[test]
fn each_subscriber_gets_each_message_once_and_in_order() {
    for format in ["json", "msgpack"] {
        for batch in ["1", "10"] {
            let server = Scripted::start(Fault::None);
            let report = server.sound(&[
                "notify",
                "--subscribers",
                "5",
                "--batch",
                batch,
                "--format",
                format,
                "--depth",
                "2",
            ]);
            let posted = server.store().posted as u64;
            assert_eq!(report.verified.received, 5 * posted, "{report:?}");
            assert!(posted > 0 && report.notifications_per_second.unwrap() > 10.0);
            assert!(report.notification_latency.unwrap().p50 > 0);
        }
    }
    for (fault, of) in [(Fault::Lose(3), "lost"), (Fault::Repeat(3), "repeated")] {
        let server = Scripted::start(fault);
        let output = server.bench(&["notify", "--subscribers", "2", "--rate", "20"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let verified = report(&output).verified;
        let (lost, repeated) = (verified.lost, verified.repeated_or_out_of_order);
        assert_eq!(if of == "lost" { (lost, repeated) } else { (repeated, lost) }, (2, 0), "{verified:?}");
    }
}

#[test]
fn a_token_is_shown_before_anything_is_asked() {
    let server = Scripted::start(Fault::WantToken("secret"));
    let file = std::env::temp_dir().join(format!("millstream-zaqar-token-{}", std::process::id()));
    let path = file.to_str().unwrap();
    std::fs::write(&file, "secret\n").unwrap();
    server.sound(&["post", "--connections", "2", "--token-file", path]);
    std::fs::write(&file, "other\n").unwrap();
    let why = server.fails(&["post", "--connections", "2", "--token-file", path]);
    assert!(why.contains("authenticate: 401") && !why.contains("other"), "{why}");
    let why = server.fails(&["post", "--connections", "2"]);
    assert!(why.contains("queue_create: 403 Not authentified."), "{why}");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn arguments_that_cannot_work_are_refused() {
    for (arguments, words) in [
        (&["list", "--batch", "2"][..], "--batch"),
        (&["post", "--stock", "2"], "--stock"),
        (&["post", "--subscribers", "2"], "--subscribers"),
        (&["notify", "--bytes", "47"], "--bytes 47"),
        (&["post", "--queue", "a b"], "--queue"),
        (&["post", "--rate", "0"], "--rate"),
        (&["post", "--seconds", "0"], "--seconds"),
        (&["post", "--url", "http://h/"], "ws://"),
    ] {
        let output = Command::new(BINARY).args(["bench", "zaqar"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{arguments:?}: {output:?}");
    }
}
