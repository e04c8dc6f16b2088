//! A real server on a free port, and a client that speaks the protocol byte by byte through tungstenite.
#![allow(dead_code)]

pub mod originator;
pub mod ports;
pub mod zaqar;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream::pb::wire::{Reader, write_varint};
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, ConsumeSetupRequest, ProduceRequest, ProduceResponse,
    ProduceSetupRequest, ProduceSetupResponse, SetupRequest, Status,
};
use prost::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message as WsMessage, WebSocket};

pub const BINARY: &str = env!("CARGO_BIN_EXE_millstream");

/// The store of tests whose flags name none: memory, so that nothing is left behind.
pub const STORE: (&str, &str) = ("MILLSTREAM_STORE", "memory");

pub struct Server {
    child: Child,
    pub port: u16,
    /// The port of health and metrics.
    pub control: u16,
    arguments: Vec<String>,
    log: Arc<Mutex<Vec<String>>>,
    /// The directory of the certificate, if clients reach the server over TLS.
    certificate: Option<PathBuf>,
}

/// Returns whether clients reach the servers of this run over TLS. `TESTS_TLS=1` sets it.
fn speaks_tls() -> bool {
    std::env::var("TESTS_TLS").is_ok_and(|set| set == "1")
}

/// Creates a directory for the certificate of one server.
fn certificate_directory() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Returns the port after `key=127.0.0.1:` or `key=[::]:`, in a line of text or JSON.
fn port(line: &str, key: &str) -> Option<u16> {
    let rest = [format!("{key}=127.0.0.1:"), format!("{key}=[::]:"), format!("\"{key}\":\"127.0.0.1:")]
        .iter()
        .find_map(|key| line.split_once(&key[..]))?
        .1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_by(Command::new(BINARY), arguments)
    }

    /// Starts a server that may have at most `files` files open.
    pub fn start_with_files(files: u32, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), BINARY]);
        Self::start_by(shell, arguments)
    }

    /// Starts a server whose standard error is full, and stays full until someone reads from the returned
    /// socket. It has no control port.
    pub fn start_unheard(arguments: &[&str]) -> (Self, UnixStream) {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        for size in [4096, 1] {
            while matches!(writer.write(&vec![b'\n'; size]), Ok(1..)) {}
        }
        writer.set_nonblocking(false).unwrap();
        let port = ports::free(1);
        let child = Command::new(BINARY)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--control-listen", "off"])
            .args(arguments)
            .env(STORE.0, STORE.1)
            .stderr(OwnedFd::from(writer))
            .spawn()
            .unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let server = Self { child, port, control: 0, arguments, log: Arc::default(), certificate: None };
        eventually("the server", || server.is_listening().then_some(()));
        (server, reader)
    }

    /// Starts a server with a command that runs the binary with the arguments that it gets.
    pub fn start_by(mut command: Command, arguments: &[&str]) -> Self {
        let certificate = (speaks_tls() && !arguments.contains(&"--tls-listen")).then(certificate_directory);
        let tls = certificate.as_deref().map(originator::certificate);
        if let Some((files, _)) = &tls {
            command.env("MILLSTREAM_TLS_LISTEN", "127.0.0.1:0").env("MILLSTREAM_TLS_CERTIFICATES", files);
        }
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env(STORE.0, STORE.1)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let (listen, secure, control) = loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("the server ended before it listened: {said:?}"))
                .unwrap();
            let ports = (port(&line, "listen"), port(&line, "tls_listen"), port(&line, "control"));
            said.push(line);
            if let (Some(listen), secure, control) = ports {
                break (listen, secure, control.unwrap_or(0));
            }
        };
        let port = match (tls, secure) {
            (Some((_, config)), Some(secure)) => originator::originate(secure, config),
            _ => listen,
        };
        let log = Arc::new(Mutex::new(said));
        let to = log.clone();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line))
        });
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { child, port, control, arguments, log, certificate }
    }

    /// Sends requests for the control port to this port.
    pub fn with_control(self, control: u16) -> Self {
        let mut server = self;
        server.control = control;
        server
    }

    /// Returns the lines logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a log line that contains `words`.
    pub fn wait_for_log(&self, words: &str) -> String {
        eventually(&format!("a line with {words:?}"), || {
            self.log().into_iter().find(|line| line.contains(words))
        })
    }

    /// Returns status and body of a path of the control port.
    pub fn control(&self, path: &str) -> (u16, String) {
        self.ask_control(&format!("GET {path}"), "")
    }

    /// Sends a request with these header lines to the control port. Returns status and body of the answer.
    pub fn ask_control(&self, request: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.control)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Returns the sum over all shards of the metrics whose line starts with `name`.
    pub fn metric(&self, name: &str) -> u64 {
        let (status, page) = self.control("/metrics");
        assert_eq!(status, 200, "{page}");
        let values = page.lines().filter(|line| line.starts_with(name));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    /// Returns the worst-case memory that `--check-config` prints, in bytes.
    pub fn memory_at_worst(&self) -> u64 {
        let output = Command::new(BINARY)
            .args(["serve", "--check-config"])
            .args(&self.arguments)
            .env(STORE.0, STORE.1)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains("MiB  at worst")).expect("the sum");
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 20
    }

    /// Returns the number of open files of the server.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Opens a TCP connection and sends nothing on it.
    pub fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Returns whether the server accepts connections.
    pub fn is_listening(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits for the server to end by itself, for at most `time`.
    pub fn ended_within(&mut self, time: Duration) -> std::process::ExitStatus {
        let until = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server has not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).args(["--url", &self.url()]);
        command
    }

    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the CPU time that the server has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The fields after the name, which may contain spaces: 14 and 15 of proc(5), in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Returns the peak of the resident memory.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the server has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(directory) = &self.certificate {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Calls `look` repeatedly until it returns a value, for at most a minute.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} never came");
}

/// Returns a handshake request for `target`, with `extra` header lines.
pub fn handshake(target: &str, extra: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: here:9000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    )
}

/// Reads the head of the server's response.
pub fn response(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Returns a client's frame with the mask 0.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        long @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A well-behaved client next to the others. Produces one message at a time, waits for its acknowledgement
/// and reads it back, all within the sockets' timeout.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Neighbour {
    pub fn beside(server: &Server) -> Self {
        let headers = [("X-Project-Id", "neighbour")];
        let mut producer = Client::connect_with(server, &headers);
        producer.begin(&append("undisturbed"));
        assert_eq!(code(&producer.receive_as::<ProduceSetupResponse>().status), 100);
        let mut consumer = Client::connect_with(server, &headers);
        consumer.begin(&get("undisturbed", "latest", true));
        assert_eq!(consumer.receive_as::<Status>().status_code(), 100);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let served = Arc::new(AtomicU64::new(0));
        let counted = served.clone();
        let thread = std::thread::spawn(move || {
            let (mut waits, mut granted) = (Vec::new(), 100);
            for number in 1.. {
                let began = Instant::now();
                let text = format!("message {number}");
                while number > granted {
                    granted = producer.receive_as::<ProduceResponse>().max_msgnum_to_send();
                }
                producer.send(&request(Some(60), &[text.as_bytes()]));
                // Some responses only grant credit.
                let response = loop {
                    let response: ProduceResponse = producer.receive_as();
                    granted = response.max_msgnum_to_send();
                    if response.status.is_some() {
                        break response;
                    }
                };
                assert_eq!((code(&response.status), response.msgnum_status_is_thru()), (201, number));
                let messages = consumer.receive_as::<ConsumeResponse>().messages;
                let [message] = &messages[..] else { panic!("one message at a time: {messages:?}") };
                assert_eq!(message.payload(), text.as_bytes());
                waits.push(began.elapsed());
                counted.fetch_add(1, Ordering::Relaxed);
                let credit = Some(number + 100);
                consumer.send(&ConsumeRequest { max_msgnum_to_send: credit, ..Default::default() });
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // The pace of the client; nothing depends on it.
                std::thread::sleep(Duration::from_millis(2));
            }
            waits
        });
        Self { stop, served, thread }
    }

    /// Waits until it has been served `times` times.
    pub fn await_served(&self, times: u64) {
        eventually("a neighbour that is served", || {
            (self.served.load(Ordering::Relaxed) >= times).then_some(())
        });
    }

    /// Ends the client, and fails if a message was lost, out of order or too late. Returns the round-trip
    /// times, sorted.
    pub fn leave(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut waits = self.thread.join().expect("the neighbour was disturbed");
        waits.sort_unstable();
        let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
        println!(
            "neighbour: {} round trips, p50 {:?}, p99 {:?}, max {:?}",
            waits.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        waits
    }
}

/// Raises the limit of open files to the hard limit of this process.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// A WebSocket connection through tungstenite.
pub struct Client(pub WebSocket<TcpStream>, Vec<u8>, bool);

impl Client {
    pub fn connect(server: &Server) -> Self {
        Self::connect_with(server, &[])
    }

    pub fn connect_with(server: &Server, headers: &[(&str, &str)]) -> Self {
        let mut request = tungstenite::client::IntoClientRequest::into_client_request(server.url()).unwrap();
        for (name, value) in headers {
            let name = tungstenite::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = server.dial();
        let config = tungstenite::protocol::WebSocketConfig::default();
        let (socket, _) = tungstenite::client::client_with_config(request, stream, Some(config)).unwrap();
        Self(socket, Vec::new(), false)
    }

    /// Wraps a connection whose handshake the test performed itself.
    pub fn after_handshake(stream: TcpStream) -> Self {
        let role = tungstenite::protocol::Role::Client;
        Self(WebSocket::from_raw_socket(stream, role, None), Vec::new(), false)
    }

    fn frame(&mut self, payload: Vec<u8>, opcode: Data, fin: bool) {
        let frame = Frame::message(payload, OpCode::Data(opcode), fin);
        self.0.send(WsMessage::Frame(frame)).unwrap();
    }

    /// Sends the first frame of an operation, with one pb.
    pub fn begin(&mut self, pb: &impl Message) {
        self.frame(pb.encode_length_delimited_to_vec(), Data::Binary, false);
    }

    pub fn send(&mut self, pb: &impl Message) {
        self.frame(pb.encode_length_delimited_to_vec(), Data::Continue, false);
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.frame(bytes.to_vec(), Data::Continue, false);
    }

    pub fn begin_raw(&mut self, bytes: &[u8], fin: bool) {
        self.frame(bytes.to_vec(), Data::Binary, fin);
    }

    pub fn finish(&mut self) {
        self.frame(Vec::new(), Data::Continue, true);
    }

    /// Returns the next pb of the server's half, or `None` at its end. Reads the frames from the socket
    /// itself, because tungstenite returns only whole messages.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut reader = Reader(&self.1);
            if let Ok(pb) = reader.bytes() {
                let pb = pb.to_vec();
                let left = reader.0.to_vec();
                self.1 = left;
                return Some(pb);
            }
            if std::mem::take(&mut self.2) {
                return None;
            }
            let (fin, opcode, payload) = self.read_frame();
            match opcode {
                0 | 2 => {
                    self.1.extend(payload);
                    self.2 = fin;
                }
                8 => panic!("closed with {:?}", payload.get(..2).map(|b| u16::from_be_bytes([b[0], b[1]]))),
                _ => {}
            }
        }
    }

    pub fn receive_as<T: Message + Default>(&mut self) -> T {
        T::decode(&self.receive().expect("the server's half has ended")[..]).unwrap()
    }

    /// Returns the close code that the server sends next.
    pub fn close_code(&mut self) -> u16 {
        loop {
            let (_, opcode, payload) = self.read_frame();
            if opcode == 8 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }

    pub fn read_frame(&mut self) -> (bool, u8, Vec<u8>) {
        let stream = self.0.get_mut();
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let length = match head[1] & 0x7f {
            126 => {
                let mut wide = [0; 2];
                stream.read_exact(&mut wide).unwrap();
                u64::from(u16::from_be_bytes(wide))
            }
            127 => {
                let mut wide = [0; 8];
                stream.read_exact(&mut wide).unwrap();
                u64::from_be_bytes(wide)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        (head[0] & 0x80 != 0, head[0] & 0x0f, payload)
    }
}

/// Starts a command with all three standard streams piped.
pub fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs a command with `input` as its standard input. Returns its output.
pub fn feed(command: Command, input: &[u8]) -> Output {
    let mut child = spawn(command);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs a `consume` command. Returns the lines that it printed, and the marker to continue from.
pub fn consume(mut command: Command) -> (Vec<String>, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let marker = said.split("--from ").nth(1).expect("a marker to continue from").trim().to_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.split_terminator('\n').map(str::to_owned).collect(), marker)
}

pub fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(value, &mut out);
    out
}

pub fn append(queue: &str) -> SetupRequest {
    SetupRequest {
        append: Some(ProduceSetupRequest { queue_name: Some(queue.into()) }),
        get: None,
        claim: None,
    }
}

pub fn get(queue: &str, marker: &str, echo: bool) -> SetupRequest {
    SetupRequest {
        get: Some(ConsumeSetupRequest {
            queue_name: Some(queue.into()),
            echo_requested: Some(echo),
            starting_marker: Some(marker.into()),
            ..Default::default()
        }),
        append: None,
        claim: None,
    }
}

pub fn request(ttl: Option<u32>, payloads: &[&[u8]]) -> ProduceRequest {
    ProduceRequest {
        ttl,
        payloads: payloads.iter().map(|p| Bytes::copy_from_slice(p)).collect(),
        ..ProduceRequest::default()
    }
}

pub fn code(status: &Option<Status>) -> u32 {
    status.as_ref().unwrap().status_code()
}

/// Connects a producer whose setup was accepted.
pub fn producer(server: &Server, queue: &str) -> Client {
    let mut client = Client::connect(server);
    client.begin(&append(queue));
    let setup: ProduceSetupResponse = client.receive_as();
    assert_eq!(code(&setup.status), 100);
    assert!(setup.max_msgnum_to_send() >= 100);
    client
}

/// Stores a message and reads its acknowledgement, which shows that the server still serves others.
pub fn others_are_served(server: &Server) {
    let mut client = producer(server, "others");
    client.send(&request(Some(60), &[b"fine"]));
    let response: ProduceResponse = client.receive_as();
    assert_eq!((code(&response.status), response.msgnum_status_is_thru()), (201, 1));
    client.finish();
    assert_eq!(client.receive(), None);
}
