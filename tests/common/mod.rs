//! A real server on a free port, and a raw client that speaks the protocol by the byte through tungstenite.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use millstream::pb::wire::{Reader, write_varint};
use millstream::pb::{
    ConsumeSetupRequest, ProduceRequest, ProduceResponse, ProduceSetupRequest, ProduceSetupResponse,
    SetupRequest, Status,
};
use prost::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message as WsMessage, WebSocket};

pub const BINARY: &str = env!("CARGO_BIN_EXE_millstream");

pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it listened");
            if let Some((_, rest)) = line.split_once("listen=127.0.0.1:") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        // Nobody reads the rest; a full pipe must not stop the server.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, port }
    }

    /// A bare connection, on which nothing was said yet.
    pub fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Whether it takes new connections.
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

    /// SIGTERM, and the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).args(["--url", &self.url()]);
        command
    }

    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A WebSocket connection of tungstenite's.
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

    /// A connection whose handshake was made by hand.
    pub fn after_handshake(stream: TcpStream) -> Self {
        let role = tungstenite::protocol::Role::Client;
        Self(WebSocket::from_raw_socket(stream, role, None), Vec::new(), false)
    }

    fn frame(&mut self, payload: Vec<u8>, opcode: Data, fin: bool) {
        let frame = Frame::message(payload, OpCode::Data(opcode), fin);
        self.0.send(WsMessage::Frame(frame)).unwrap();
    }

    /// The first frame of an operation, with one pb.
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

    /// The next pb of the server's half; `None` at its end. Reads frames by hand from the socket, because tungstenite
    /// gives whole messages only.
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

    /// The close code that the server sends next.
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

/// Starts a command with all its ends open.
pub fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Feeds `input` to a command; its output once it has ended.
pub fn feed(command: Command, input: &[u8]) -> Output {
    let mut child = spawn(command);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The lines that a `consume` printed, and the marker to go on from.
pub fn consume(mut command: Command) -> (Vec<String>, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let marker = said.split("--from ").nth(1).expect("a marker to go on from").trim().to_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.split_terminator('\n').map(str::to_owned).collect(), marker)
}

pub fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(value, &mut out);
    out
}

pub fn append(queue: &str) -> SetupRequest {
    SetupRequest { append: Some(ProduceSetupRequest { queue_name: Some(queue.into()) }), get: None }
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
    }
}

pub fn request(ttl: Option<u32>, payloads: &[&[u8]]) -> ProduceRequest {
    ProduceRequest {
        ttl,
        payloads: payloads.iter().map(|p| Bytes::copy_from_slice(p)).collect(),
        keys: vec![],
    }
}

pub fn code(status: &Option<Status>) -> u32 {
    status.as_ref().unwrap().status_code()
}

/// A producer whose setup was accepted.
pub fn producer(server: &Server, queue: &str) -> Client {
    let mut client = Client::connect(server);
    client.begin(&append(queue));
    let setup: ProduceSetupResponse = client.receive_as();
    assert_eq!(code(&setup.status), 100);
    assert!(setup.max_msgnum_to_send() >= 100);
    client
}

/// Stores and reads back one message: the server serves others undisturbed.
pub fn others_are_served(server: &Server) {
    let mut client = producer(server, "others");
    client.send(&request(Some(60), &[b"fine"]));
    let response: ProduceResponse = client.receive_as();
    assert_eq!((code(&response.status), response.msgnum_status_is_thru()), (201, 1));
    client.finish();
    assert_eq!(client.receive(), None);
}
