//! A server that is killed and restarted, and clients that continue across that and account for every
//! message.
#![allow(dead_code)]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use millstream::pb::{ProduceResponse, ProduceSetupResponse};

use crate::common::{BINARY, Client, Server, append, code, eventually, originator, ports, request};

/// A server that can be restarted at the same port.
pub struct Service {
    arguments: Vec<String>,
    server: Option<Server>,
    /// How its clients connect, if they speak TLS.
    secure: Option<[String; 4]>,
}

impl Service {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, None)
    }

    /// Starts a server whose clients speak TLS. The directory holds its certificate.
    pub fn start_secure(arguments: &[&str], directory: &Path) -> Self {
        let (pair, _) = originator::certificate(directory);
        let port = ports::free(1);
        let listen = format!("127.0.0.1:{port}");
        let secure = ["--tls-listen", &listen, "--tls-certificates", &pair];
        let certificate = directory.join("cert.pem");
        let clients = ["--url", &format!("wss://localhost:{port}/"), "--ca", certificate.to_str().unwrap()];
        Self::start_with(&[arguments, &secure].concat(), Some(clients.map(str::to_owned)))
    }

    fn start_with(arguments: &[&str], secure: Option<[String; 4]>) -> Self {
        let listen = format!("127.0.0.1:{}", ports::free(1));
        let base = ["--listen", &listen, "--control-listen", "127.0.0.1:0"];
        let arguments = [&base[..], arguments].concat();
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        let mut service = Self { arguments, server: None, secure };
        service.restart();
        service
    }

    pub fn restart(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.server = Some(Server::start(&arguments));
    }

    /// Returns a client's command.
    pub fn run(&self, arguments: &[&str]) -> Command {
        let Some(clients) = &self.secure else { return self.server().run(arguments) };
        let mut command = Command::new(BINARY);
        command.args(arguments).args(clients);
        command
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn kill(&mut self) {
        let server = self.server.take().unwrap();
        server.signal("KILL");
        server.wait();
    }
}

/// `millstream produce`, fed with numbers as fast as it reads them.
pub struct Feed {
    child: Child,
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

/// More numbers than a client, its pipe and its buffers can hold unacknowledged together.
const PROGRESS: u64 = 150_000;

impl Feed {
    pub fn into(service: &Service, queue: &str) -> Self {
        let mut child = service
            .run(&["produce", queue, "--retries", "1000"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut input = child.stdin.take().unwrap();
        let (count, stopped) = (written.clone(), stop.clone());
        let writer = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let first = count.load(Ordering::Relaxed);
                let text: String = (first..first + 1000).map(|number| format!("{number}\n")).collect();
                input.write_all(text.as_bytes()).expect("the producer keeps reading");
                count.store(first + 1000, Ordering::Relaxed);
            }
        });
        Self { child, written, stop, writer }
    }

    /// Waits until enough numbers are written that some of them must be acknowledged.
    pub fn await_progress(&self, what: &str) {
        self.await_more(PROGRESS, what);
    }

    /// Waits until `count` more numbers are written.
    pub fn await_more(&self, count: u64, what: &str) {
        let goal = self.written.load(Ordering::Relaxed) + count;
        eventually(what, || (self.written.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Ends the input. Returns how many numbers were written, and how many the client sent again.
    pub fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let again = said.lines().find_map(|line| line.split_once(" sent again")).expect("the summary").0;
        let again = again.rsplit(' ').next().unwrap().parse().unwrap();
        (self.written.load(Ordering::Relaxed), again)
    }
}

/// Reads the queue to its end. Checks that every number is present and in order at its first occurrence, and
/// that no more numbers are duplicated than were sent again.
pub fn check(service: &Service, queue: &str, numbers: u64, sent_again: u64) {
    let server = service.server();
    // A last message marks the end.
    let mut last = Client::connect(server);
    last.begin(&append(queue));
    assert_eq!(code(&last.receive_as::<ProduceSetupResponse>().status), 100);
    last.send(&request(Some(3600), &[b"end"]));
    while last.receive_as::<ProduceResponse>().status.is_none() {}
    let mut consumer = service.run(&["consume", queue]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut next, mut twice) = (0, 0);
    for line in std::io::BufRead::lines(std::io::BufReader::new(consumer.stdout.take().unwrap())) {
        let line = line.unwrap();
        if line == "end" {
            break;
        }
        let number: u64 = line.parse().unwrap();
        if number < next {
            twice += 1;
        } else {
            assert_eq!(number, next, "a number is missing or out of order");
            next += 1;
        }
    }
    consumer.kill().unwrap();
    consumer.wait().unwrap();
    println!("{numbers} numbers, {sent_again} sent again, {twice} stored twice");
    assert_eq!(next, numbers);
    assert!(twice <= sent_again, "{twice} are stored twice, {sent_again} were sent again");
}
