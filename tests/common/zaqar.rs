//! A client of the Zaqar API for tests, in JSON or in MessagePack.
#![allow(dead_code)]

use std::net::TcpStream;

use rmpv::Value as Pack;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::Server;

pub const CLIENT: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
pub const OTHER: &str = "355186cd-d1e8-4108-a3ac-a2183697232a";

/// A connection to `/v2`.
pub struct Zaqar {
    pub socket: WebSocket<TcpStream>,
    pub project: String,
    pub client: String,
}

impl Zaqar {
    pub fn connect(server: &Server) -> Self {
        let url = format!("ws://127.0.0.1:{}/v2", server.port);
        let (socket, _) = tungstenite::client(url, server.dial()).unwrap();
        Self { socket, project: "p".to_owned(), client: CLIENT.to_owned() }
    }

    /// Names another project in its requests.
    pub fn of_project(mut self, project: &str) -> Self {
        self.project = project.to_owned();
        self
    }

    /// Has another Client-ID.
    pub fn of_client(mut self, client: &str) -> Self {
        self.client = client.to_owned();
        self
    }

    fn request(&self, action: &str, body: Value) -> Value {
        json!({
            "action": action,
            "headers": {"Client-ID": self.client, "X-Project-ID": self.project},
            "body": body,
        })
    }

    /// Sends a request without waiting for its answer.
    pub fn send(&mut self, action: &str, body: Value) {
        let text = self.request(action, body).to_string();
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Returns the next document.
    pub fn receive(&mut self) -> Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Binary(bytes) => panic!("{} bytes of MessagePack for a JSON client", bytes.len()),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Returns the status and the body of the next answer.
    pub fn answer(&mut self) -> (u16, Value) {
        let mut answer = self.receive();
        let status = answer["headers"]["status"].as_u64().unwrap();
        (status as u16, answer["body"].take())
    }

    /// Returns the status and the body of the answer to a request.
    pub fn ask(&mut self, action: &str, body: Value) -> (u16, Value) {
        self.send(action, body);
        self.answer()
    }

    /// Returns the body of the answer to a request, which must have this status.
    pub fn get(&mut self, status: u16, action: &str, body: Value) -> Value {
        let (got, answer) = self.ask(action, body);
        assert_eq!(got, status, "{action}: {answer}");
        answer
    }

    /// Posts bodies. Returns the ids.
    pub fn post(&mut self, queue: &str, bodies: &[Value]) -> Vec<String> {
        let messages: Vec<Value> = bodies.iter().map(|body| json!({"body": body, "ttl": 600})).collect();
        let answer = self.get(201, "message_post", json!({"queue_name": queue, "messages": messages}));
        answer["message_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Returns the bodies of the messages of a queue.
    pub fn bodies(&mut self, queue: &str) -> Vec<Value> {
        let list = json!({"queue_name": queue, "echo": true, "limit": 20});
        let answer = self.get(200, "message_list", list);
        answer["messages"].as_array().unwrap().iter().map(|message| message["body"].clone()).collect()
    }

    /// Sends a request in MessagePack. Returns the answer.
    pub fn ask_packed(&mut self, action: &str, body: Pack) -> Pack {
        let text = |text: &str| Pack::from(text);
        let headers = Pack::Map(vec![
            (text("Client-ID"), text(&self.client)),
            (text("X-Project-ID"), text(&self.project)),
        ]);
        let request =
            Pack::Map(vec![(text("action"), text(action)), (text("headers"), headers), (text("body"), body)]);
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &request).unwrap();
        self.socket.send(Message::binary(bytes)).unwrap();
        self.receive_packed()
    }

    /// Returns the next document, in MessagePack.
    pub fn receive_packed(&mut self) -> Pack {
        loop {
            match self.socket.read().unwrap() {
                Message::Binary(bytes) => return rmpv::decode::read_value(&mut &bytes[..]).unwrap(),
                Message::Text(text) => panic!("text for a MessagePack client: {text}"),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }
}

/// Returns a member of a map.
pub fn member<'a>(map: &'a Pack, name: &str) -> &'a Pack {
    let members = map.as_map().unwrap_or_else(|| panic!("{map} is no map"));
    let found = members.iter().find(|(key, _)| key.as_str() == Some(name));
    &found.unwrap_or_else(|| panic!("{map} has no {name}")).1
}
