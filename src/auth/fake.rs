//! A tiny HTTP server for tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a fake provider does with a request.
pub(in crate::auth) enum Does {
    /// It answers with this status, these headers and this body.
    Answer(u16, String, String),
    /// It never answers.
    Hang,
}

/// A provider on this machine. Its threads end with the test's process.
pub(in crate::auth) struct Fake {
    address: SocketAddr,
    /// The requests so far: the head and the body.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(in crate::auth) fn start(answer: impl FnMut(&str) -> Does + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (heard, answer) = (requests.clone(), Arc::new(Mutex::new(answer)));
        std::thread::spawn(move || {
            let mut hung = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = request(&mut stream) else { continue };
                heard.lock().unwrap().push(request.clone());
                match (answer.lock().unwrap())(&request) {
                    Does::Hang => hung.push(stream),
                    Does::Answer(status, headers, body) => {
                        let head = format!("HTTP/1.1 {status} X\r\n{headers}Connection: close\r\n");
                        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                        // The client may have given up.
                        let _ = stream.write_all(answer.as_bytes());
                    }
                }
            }
        });
        Self { address, requests }
    }

    pub(in crate::auth) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(in crate::auth) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads one request. `None` if the client goes away.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
    }
}
