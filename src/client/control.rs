//! A client for a server's control port: JSON pages, changes and reloads over HTTP, to a TCP address with or without
//! TLS, or to a Unix socket. Its calls block the thread.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::header::AUTHORIZATION;
use ureq::http::{HeaderValue, Response, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body, RequestBuilder};

use super::address::{Address, Endpoint};
use super::dial::{TlsConnector, UnixConnector};
use super::error::ClientError;
use super::trust::Trust;
use crate::process::terminal::escaped;

/// The longest accepted answer, in bytes. A latency histogram that uses every bucket takes about 400 KiB, and
/// a page has one for each stage.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// A client for the control port of one server.
#[derive(Clone, Debug)]
pub struct ControlClient {
    base: String,
    /// The address, for errors.
    shown: String,
    agent: Agent,
    authorization: Option<HeaderValue>,
}

/// The reason why a request to a control port failed.
#[derive(Debug)]
pub enum ControlError {
    /// The server did not answer, or its answer is malformed.
    Failed {
        /// The requested URL.
        url: String,
        /// The reason.
        why: String,
    },
    /// The server answered with a status other than the expected one.
    Refused {
        /// The requested URL.
        url: String,
        /// The status.
        status: StatusCode,
        /// The text of the answer, which explains the status.
        text: String,
    },
}

impl ControlClient {
    /// Creates a client for the control port at `address`, which must be one of [`Scheme::Http`](super::Scheme).
    /// `trust` is for TLS. A request fails if its whole answer does not arrive within `timeout`.
    pub fn new(address: &Address, trust: Option<Trust>, timeout: Duration) -> Self {
        let (unix, base, shown) = match address.endpoint() {
            // The host is not resolved: nothing connects to it.
            Endpoint::Unix(path) => {
                let shown = format!("unix:{}", path.display());
                (Some(path.clone()), "http://127.0.0.1".into(), shown)
            }
            Endpoint::Tcp { .. } => (None, address.base(), address.base()),
        };
        let config = Agent::config_builder()
            // A control port is usually on this machine or network, so ignore `http_proxy`.
            .proxy(None)
            .timeout_global(Some(timeout))
            // The body of an error status says what to do, so read it instead of failing at once.
            .http_status_as_error(false)
            // The server closes idle connections, so a pooled one may be closed already.
            .max_idle_connections(0)
            .build();
        let connector = UnixConnector(unix).chain(TcpConnector::default()).chain(TlsConnector(trust));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        Self { base, shown, agent, authorization: None }
    }

    /// Sends this token with each request. Fails if it cannot be a part of a header.
    pub fn with_token(self, token: &str) -> Result<Self, ClientError> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            ClientError::Address("the token for the control port has characters that no token has".into())
        })?;
        authorization.set_sensitive(true);
        Ok(Self { authorization: Some(authorization), ..self })
    }

    /// Returns the JSON page at `path`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ControlError> {
        let url = self.shown(path);
        let answer = self.with_rights(self.agent.get(self.url(path))).call();
        let text = read(&url, answer, StatusCode::is_success)?;
        parse(url, &text)
    }

    /// Deletes the resource at `path`. Any status except 204 is an error, because it means that the deletion
    /// is not complete.
    pub fn delete(&self, path: &str) -> Result<(), ControlError> {
        let url = self.shown(path);
        let answer = self.with_rights(self.agent.delete(self.url(path))).call();
        read(&url, answer, |status| *status == StatusCode::NO_CONTENT).map(drop)
    }

    /// Deletes what `path` names, and returns the JSON page that says what became of it.
    pub fn delete_some<T: DeserializeOwned>(&self, path: &str) -> Result<T, ControlError> {
        let url = self.shown(path);
        let answer = self.with_rights(self.agent.delete(self.url(path))).call();
        let text = read(&url, answer, StatusCode::is_success)?;
        parse(url, &text)
    }

    /// Creates what `path` names from a JSON page. Returns whether it did not exist, and the JSON page of the answer.
    pub fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(bool, T), ControlError> {
        let url = self.shown(path);
        let request = self.with_rights(self.agent.put(self.url(path)));
        let answer = request.content_type(JSON).send(encode(&url, body)?);
        let is_new = answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::CREATED);
        let text = read(&url, answer, StatusCode::is_success)?;
        Ok((is_new, parse(url, &text)?))
    }

    /// Changes what `path` names as a JSON page says. Returns the JSON page of the answer.
    pub fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ControlError> {
        let url = self.shown(path);
        let request = self.with_rights(self.agent.patch(self.url(path)));
        let text = read(&url, request.content_type(JSON).send(encode(&url, body)?), StatusCode::is_success)?;
        parse(url, &text)
    }

    /// Posts an empty request to `path`, and returns the JSON page of the answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ControlError> {
        let url = self.shown(path);
        let answer = self.with_rights(self.agent.post(self.url(path))).send_empty();
        let text = read(&url, answer, StatusCode::is_success)?;
        parse(url, &text)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn shown(&self, path: &str) -> String {
        format!("{}{path}", self.shown)
    }

    fn with_rights<Any>(&self, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }
}

/// The content type of request bodies.
const JSON: &str = "application/json";

fn encode(url: &str, body: &impl Serialize) -> Result<Vec<u8>, ControlError> {
    serde_json::to_vec(body).map_err(|error| {
        let why = format!("the request cannot be encoded: {error}");
        ControlError::Failed { url: url.to_owned(), why }
    })
}

fn parse<T: DeserializeOwned>(url: String, text: &str) -> Result<T, ControlError> {
    serde_json::from_str(text).map_err(|error| {
        let why = format!("the answer is not the expected JSON: {error}");
        ControlError::Failed { url, why }
    })
}

/// Returns the text of an answer with an expected status.
fn read(
    url: &str,
    answer: Result<Response<Body>, ureq::Error>,
    is_expected: impl FnOnce(&StatusCode) -> bool,
) -> Result<String, ControlError> {
    let failed = |error: ureq::Error| {
        let why = match error {
            ureq::Error::Other(why) => why.to_string(),
            ureq::Error::Timeout(_) => {
                "no answer in time: the server may be stopped or busy, and may still do what was asked for"
                    .to_owned()
            }
            error => error.to_string(),
        };
        ControlError::Failed { url: url.to_owned(), why }
    };
    let mut answer = answer.map_err(failed)?;
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(failed)?;
    let status = answer.status();
    if is_expected(&status) {
        Ok(text)
    } else {
        Err(ControlError::Refused { url: url.to_owned(), status, text })
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { url, why } => write!(f, "{}: {}", escaped(url), escaped(why)),
            Self::Refused { url, status, text } => {
                write!(f, "{}: {status}: {}", escaped(url), escaped(text.trim_end()))
            }
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Scheme;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Starts a server that gives one answer, and returns a client for it. The thread returns the request.
    fn server(answer: Vec<u8>) -> (ControlClient, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let address = Address::parse(&url, Scheme::Http).unwrap();
        let client = ControlClient::new(&address, None, Duration::from_secs(10));
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).unwrap();
            // The client closes the connection when the answer is too long.
            let _ = stream.write_all(&answer);
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (client, thread)
    }

    fn http(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn a_page_is_read() {
        let (client, server) = server(http("200 OK", "[1, 2]"));
        assert_eq!(client.get::<Vec<u32>>("/pages?all=true").unwrap(), [1, 2]);
        assert!(server.join().unwrap().starts_with("GET /pages?all=true HTTP/1.1\r\n"));
    }

    #[test]
    fn an_error_names_the_url_and_the_reason() {
        let (client, server) = server(http("503 Service Unavailable", "shard 1 is silent\x1b[2J\n"));
        let error = client.get::<Vec<u32>>("/queues").unwrap_err().to_string();
        assert!(error.starts_with("http://127.0.0.1:"), "{error}");
        assert!(error.ends_with("/queues: 503 Service Unavailable: shard 1 is silent\\u{1b}[2J"), "{error}");
        server.join().unwrap();
        let (client, server) = self::server(http("200 OK", "<html>"));
        let error = client.get::<Vec<u32>>("/queues").unwrap_err().to_string();
        assert!(error.contains("/queues: the answer is not the expected JSON: "), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_longer_answer_than_allowed_is_refused() {
        let body = " ".repeat(ANSWER_BYTES_MAX as usize + 1);
        let (client, server) = server(http("200 OK", &body));
        let error = client.get::<Vec<u32>>("/queues").unwrap_err();
        assert!(matches!(error, ControlError::Failed { .. }), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_change_is_sent_as_json() {
        for (status, is_created) in [("201 Created", true), ("200 OK", false)] {
            let (client, server) = self::server(http(status, "[1]"));
            assert_eq!(client.put::<Vec<u32>>("/p", &[7]).unwrap(), (is_created, vec![1]));
            let request = server.join().unwrap();
            assert!(request.starts_with("PUT /p HTTP/1.1\r\n"), "{request}");
            assert!(request.to_lowercase().contains("content-type: application/json\r\n"), "{request}");
        }
        let (client, server) = self::server(http("400 Bad Request", "a: bad\n"));
        let error = client.patch::<Vec<u32>>("/p", &[7]).unwrap_err().to_string();
        assert!(error.ends_with("/p: 400 Bad Request: a: bad"), "{error}");
        assert!(server.join().unwrap().starts_with("PATCH /p HTTP/1.1\r\n"));
    }

    #[test]
    fn only_204_is_a_deletion() {
        let (client, server) = server(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
        client.delete("/queues/p/q").unwrap();
        assert!(server.join().unwrap().starts_with("DELETE /queues/p/q HTTP/1.1\r\n"));
        for status in ["202 Accepted", "404 Not Found"] {
            let (client, server) = self::server(http(status, "why"));
            let error = client.delete("/queues/p/q").unwrap_err();
            assert!(error.to_string().ends_with(&format!(": {status}: why")), "{error}");
            server.join().unwrap();
        }
    }
}
