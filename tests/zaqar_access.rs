//! Tests who may use the Zaqar API, with the real server and real sockets: tokens, projects, rights, signatures, and the choice
//! of the protocol by the first frame.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "common/place.rs"]
mod place;

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Output};

use common::{BINARY, Client, Server, append, code, eventually, frame, get, request};
use millstream::auth::token::Digest;
use millstream::pb::{ProduceResponse, ProduceSetupResponse, Status};
use place::Place;
use serde_json::{Map, Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Error, Message, WebSocket};

/// A part of every token. Nothing may show it.
const CANARY: &str = "canary-7d20";

const ONE: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
const OTHER: &str = "a8098c1a-f86e-11da-bd1a-00112444be1e";

fn token(name: &str) -> String {
    format!("ms_{CANARY}-{name}")
}

/// A server with a file of tokens, and a key for signatures.
struct Guarded {
    server: Server,
    place: Place,
}

impl Guarded {
    /// Starts a server. Each of `lines` is a name, and its projects and rules.
    fn start(test: &str, lines: &[(&str, &str)], settings: &[&str]) -> Self {
        let place = Place::new(&format!("zaqar-{test}"));
        fs::write(place.0.join("tokens"), text(lines)).unwrap();
        fs::write(place.0.join("key"), "the first key of this test\n").unwrap();
        let file = |name: &str| place.0.join(name).to_str().unwrap().to_owned();
        let (tokens, key) = (file("tokens"), file("key"));
        let mut arguments = vec!["--cores", "0-1", "--auth", "static", "--auth-static-file", &tokens];
        arguments.extend(["--zaqar-signing-key-file", &key]);
        arguments.extend(settings);
        Self { server: Server::start(&arguments), place }
    }

    fn sign(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(["queue", "sign"]).args(arguments);
        command.arg("--key-file").arg(self.place.0.join("key")).output().unwrap()
    }

    /// Returns the headers of signed requests.
    fn signed(&self, arguments: &[&str]) -> Map<String, Value> {
        let output = self.sign(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn check_nothing_is_shown(&self) {
        for page in ["/metrics", "/info", "/queues", "/connections", "/latency"] {
            assert!(!self.server.control(page).1.contains(CANARY), "{page} shows a token");
        }
        assert!(!self.server.log().iter().any(|line| line.contains(CANARY)), "the log shows a token");
    }
}

fn text(lines: &[(&str, &str)]) -> String {
    lines.iter().map(|(name, rest)| format!("{name} {} {rest}\n", Digest::of(&token(name)))).collect()
}

/// A client of the API.
struct Zaqar(WebSocket<MaybeTlsStream<TcpStream>>);

impl Zaqar {
    fn connect(server: &Server, path: &str, headers: &[(&'static str, String)]) -> Result<Self, u16> {
        let mut request = format!("ws://127.0.0.1:{}{path}", server.port).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tungstenite::connect(request) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    fn stranger(server: &Server) -> Self {
        Self::connect(server, "/v2", &[]).unwrap()
    }

    /// Connects, and authenticates with the token of this name.
    fn of(server: &Server, name: &str, project: &str) -> Self {
        let mut client = Self::stranger(server);
        let answer = client.authenticate(&token(name), project);
        assert_eq!(answer, (200, json!({ "message": "Authentified." })));
        client
    }

    fn send(&mut self, action: &str, headers: &Value, body: &Value) {
        let request = json!({ "action": action, "headers": headers, "body": body });
        self.0.send(Message::text(request.to_string())).unwrap();
    }

    fn receive(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn ask_with(&mut self, action: &str, headers: &Value, body: &Value) -> (u64, Value) {
        self.send(action, headers, body);
        let answer = self.receive();
        (answer["headers"]["status"].as_u64().unwrap(), answer["body"].clone())
    }

    fn ask(&mut self, action: &str, project: &str, body: Value) -> (u64, Value) {
        self.ask_with(action, &json!({ "Client-ID": ONE, "X-Project-ID": project }), &body)
    }

    fn post(&mut self, project: &str, queue: &str) -> (u64, Value) {
        self.ask("message_post", project, json!({ "queue_name": queue, "messages": [{ "body": "hello" }] }))
    }

    fn authenticate(&mut self, token: &str, project: &str) -> (u64, Value) {
        self.ask_with("authenticate", &credentials(token, project), &json!({}))
    }

    /// Returns the code and the reason of the Close.
    fn close(&mut self) -> (u16, String) {
        loop {
            match self.0.read().unwrap() {
                Message::Close(Some(close)) => return (close.code.into(), close.reason.to_string()),
                Message::Close(None) => panic!("a Close without a code"),
                _ => {}
            }
        }
    }
}

fn credentials(token: &str, project: &str) -> Value {
    json!({ "X-Auth-Token": token, "X-Project-ID": project })
}

fn refused(text: &str) -> (u64, Value) {
    (403, json!({ "error": text }))
}

#[test]
fn a_stranger_gets_400_or_403_until_it_authenticates() {
    let guarded = Guarded::start("stranger", &[("app", "shop all:*")], &[]);
    let mut client = Zaqar::stranger(&guarded.server);
    assert_eq!(client.ask("nonsense", "shop", json!({})).0, 400, "the schema comes first");
    assert_eq!(client.ask_with("queue_list", &json!({}), &json!({})).0, 400);
    for action in ["queue_list", "queue_get", "message_list", "claim_create", "queue_get_stats"] {
        let answer = client.ask(action, "shop", json!({ "queue_name": "q" }));
        assert_eq!(answer, refused("Not authentified."), "{action}");
    }
    assert_eq!(client.ask_with("authenticate", &json!({ "X-Project-ID": "shop" }), &json!({})).0, 400);
    client.send("authenticate", &credentials(&token("nobody"), "shop"), &json!({ "secret": CANARY }));
    let answer = client.receive();
    assert_eq!(answer["body"], json!({ "error": "Authentication failed." }));
    assert_eq!(answer["headers"], json!({ "status": 401 }));
    let echo = json!({ "action": "authenticate", "body": {}, "headers": {}, "api": "v2" });
    assert_eq!(answer["request"], echo, "nothing of the request is repeated");
    assert_eq!(client.post("shop", "q"), refused("Not authentified."));
    // The project is not compared with the token's.
    assert_eq!(client.authenticate(&token("app"), "elsewhere").0, 200);
    assert_eq!(client.post("shop", "q").0, 201);
    assert_eq!(client.post("", "q").0, 201, "the client's only project");
    assert_eq!(client.post("elsewhere", "q"), refused("Not authenticated."));
    assert_eq!(client.ask("nonsense", "elsewhere", json!({})).0, 400);
    assert_eq!(client.authenticate(&token("nobody"), "shop").0, 401);
    assert_eq!(client.post("shop", "q").0, 201, "a failed attempt changes nothing");
    let reasons = "millstream_auth_failures_total{";
    assert_eq!(guarded.server.metric(reasons), 2);
    guarded.check_nothing_is_shown();
}

#[test]
fn who_has_a_grant_cannot_guess_for_another_one_either() {
    let guarded = Guarded::start("guess", &[("app", "shop all:*"), ("other", "shop all:*")], &[]);
    let mut client = Zaqar::of(&guarded.server, "app", "shop");
    assert_eq!(client.authenticate(&token("nobody"), "shop").0, 401);
    assert_eq!(client.authenticate(&token("other"), "shop").0, 200, "a few attempts are free");
    let guesses = (0..30).map(|number| client.authenticate(&token(&format!("guess-{number}")), "shop").0);
    let statuses: Vec<u64> = guesses.collect();
    assert_eq!((statuses[0], statuses[29]), (401, 429), "{statuses:?}");
    assert_eq!(client.post("shop", "q").0, 201, "the grant stays");
}

#[test]
fn requests_sent_behind_the_token_wait_for_it() {
    let guarded = Guarded::start("pipelined", &[("app", "shop all:*")], &[]);
    let mut client = Zaqar::stranger(&guarded.server);
    client.send("authenticate", &credentials(&token("app"), "shop"), &json!({}));
    let headers = json!({ "Client-ID": ONE, "X-Project-ID": "shop" });
    let messages: Vec<Value> = (0..20).map(|_| json!({ "body": "x".repeat(4_000) })).collect();
    client.send("message_post", &headers, &json!({ "queue_name": "q", "messages": messages }));
    client.send("claim_create", &headers, &json!({ "queue_name": "q" }));
    let statuses: Vec<u64> =
        (0..3).map(|_| client.receive()["headers"]["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 201, 201], "also a request that is larger than a stranger's may be");
}

#[test]
fn an_answer_has_the_frame_type_of_its_request() {
    let guarded = Guarded::start("frames", &[("app", "shop all:*")], &[]);
    let mut client = Zaqar::stranger(&guarded.server);
    let mut packed = vec![0x82, 0xa6];
    packed.extend(b"action\xacauthenticate\xa7headers\x82\xacX-Auth-Token\xd9");
    let secret = token("app");
    packed.push(u8::try_from(secret.len()).unwrap());
    packed.extend(secret.as_bytes());
    packed.extend(b"\xacX-Project-ID\xa4shop");
    client.0.send(Message::binary(packed)).unwrap();
    let Message::Binary(answer) = client.0.read().unwrap() else { panic!("another frame type") };
    let has = |words: &[u8]| answer.windows(words.len()).any(|window| window == words);
    assert!(has(b"Authentified.") && !has(CANARY.as_bytes()), "{answer:?}");
}

#[test]
fn a_credential_of_the_handshake_counts_at_once() {
    let guarded = Guarded::start("handshake", &[("app", "shop all:*")], &["--unauthenticated-max", "0"]);
    for (name, value) in
        [("x-auth-token", token("app")), ("authorization", format!("Bearer {}", token("app")))]
    {
        let mut client = Zaqar::connect(&guarded.server, "/v2", &[(name, value)]).unwrap();
        assert_eq!(client.post("shop", "q").0, 201);
        assert_eq!(client.post("other", "q"), refused("Not authenticated."));
    }
    let bad = [("x-auth-token", token("nobody"))];
    assert_eq!(Zaqar::connect(&guarded.server, "/v2", &bad).err(), Some(401));
    assert_eq!(Zaqar::connect(&guarded.server, "/v2", &[]).err(), Some(429), "unauthenticated_max");
    assert_eq!(Zaqar::connect(&guarded.server, "/", &[]).err(), Some(401), "elsewhere nobody may wait");
}

#[test]
fn a_client_does_what_its_rules_allow() {
    let lines = [
        ("app", "shop all:*"),
        ("reader", "shop,other consume:orders*"),
        ("worker", "shop claim:orders"),
        ("maker", "shop manage:*"),
    ];
    let guarded = Guarded::start("rules", &lines, &[]);
    let mut app = Zaqar::of(&guarded.server, "app", "shop");
    assert_eq!(app.post("shop", "orders").0, 201);
    assert_eq!(app.post("shop", "invoices").0, 201);
    let mut reader = Zaqar::of(&guarded.server, "reader", "shop");
    let queues = |names: &[&str]| {
        let queues: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        (200, json!({ "queues": queues }))
    };
    assert_eq!(app.ask("queue_list", "shop", json!({})), queues(&["invoices", "orders"]));
    assert_eq!(reader.ask("queue_list", "shop", json!({ "limit": 1 })), queues(&["orders"]));
    let on = |queue: &str| json!({ "queue_name": queue });
    assert_eq!(reader.ask("message_list", "shop", on("orders")).0, 200);
    assert_eq!(reader.ask("message_list", "shop", on("invoices")).0, 403);
    assert_eq!(reader.ask("queue_get_stats", "shop", on("orders")).0, 200);
    for action in ["claim_create", "queue_purge", "queue_delete", "queue_create"] {
        assert_eq!(reader.ask(action, "shop", on("orders")).0, 403, "{action}");
    }
    assert_eq!(reader.post("shop", "orders").0, 403);
    assert_eq!(reader.ask("message_list", "other", on("orders")).0, 200, "its second project");
    let mut worker = Zaqar::of(&guarded.server, "worker", "shop");
    assert_eq!(worker.ask("claim_create", "shop", on("orders")).0, 201);
    assert_eq!(worker.ask("message_list", "shop", on("orders")).0, 403);
    let mut maker = Zaqar::of(&guarded.server, "maker", "shop");
    let dead =
        json!({ "queue_name": "new", "metadata": { "_max_claim_count": 1, "_dead_letter_queue": "orders" } });
    assert_eq!(maker.ask("queue_create", "shop", dead).0, 403, "it may not produce there");
    assert_eq!(maker.ask("queue_create", "shop", on("new")).0, 201);
    assert_eq!(reader.authenticate(&token("app"), "shop").0, 200, "another principal");
    assert_eq!(reader.post("shop", "orders").0, 201);
    assert!(guarded.server.metric("millstream_auth_operations_forbidden_total{") >= 8);
    guarded.check_nothing_is_shown();
}

#[test]
fn a_client_id_belongs_to_its_principal() {
    let guarded = Guarded::start("ids", &[("one", "shop all:*"), ("two", "shop all:*")], &[]);
    let (mut one, mut two) =
        (Zaqar::of(&guarded.server, "one", "shop"), Zaqar::of(&guarded.server, "two", "shop"));
    assert_eq!(one.post("shop", "q").0, 201);
    let shown = |client: &mut Zaqar| {
        let (status, body) = client.ask("message_list", "shop", json!({ "queue_name": "q" }));
        assert_eq!(status, 200, "{body}");
        body["messages"].as_array().unwrap().len()
    };
    assert_eq!(
        (shown(&mut one), shown(&mut two)),
        (0, 1),
        "the same id of another principal is another client"
    );
    let other = json!({ "Client-ID": OTHER, "X-Project-ID": "shop" });
    let (_, body) = one.ask_with("message_list", &other, &json!({ "queue_name": "q" }));
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    let bad = json!({ "Client-ID": "no uuid", "X-Project-ID": "shop" });
    assert_eq!(one.ask_with("message_list", &bad, &json!({ "queue_name": "q" })).0, 400);
}

#[test]
fn a_removed_token_closes_the_connection_with_4003() {
    let guarded = Guarded::start("removed", &[("app", "shop all:*"), ("stays", "shop all:*")], &[]);
    let mut app = Zaqar::of(&guarded.server, "app", "shop");
    let mut stays = Zaqar::of(&guarded.server, "stays", "shop");
    fs::write(guarded.place.0.join("new"), text(&[("stays", "shop all:*")])).unwrap();
    fs::rename(guarded.place.0.join("new"), guarded.place.0.join("tokens")).unwrap();
    assert_eq!(app.close(), (4003, "Authentication expired.".into()));
    assert_eq!(stays.post("shop", "q").0, 201);
}

#[test]
fn who_does_not_authenticate_is_closed_with_1008() {
    let guarded = Guarded::start("late", &[("app", "shop all:*")], &["--auth-timeout", "300ms"]);
    let mut known = Zaqar::of(&guarded.server, "app", "shop");
    let mut client = Zaqar::stranger(&guarded.server);
    assert_eq!(client.close(), (1008, "not authenticated within auth_timeout".into()));
    assert_eq!(known.post("shop", "q").0, 201);
}

#[test]
fn without_authentication_every_token_is_accepted() {
    let server = Server::start(&["--cores", "0"]);
    let mut client = Zaqar::stranger(&server);
    assert_eq!(client.post("shop", "q").0, 201);
    assert_eq!(client.authenticate("anything", "shop"), (200, json!({ "message": "Authentified." })));
    assert_eq!(client.post("other", "q").0, 201);
}

#[test]
fn a_signature_permits_what_it_says() {
    let guarded = Guarded::start("signed", &[("app", "p1 all:*")], &[]);
    let with = |mut headers: Map<String, Value>, project: &str| {
        headers.insert("Client-ID".into(), json!(ONE));
        headers.insert("X-Project-ID".into(), json!(project));
        Value::Object(headers)
    };
    let signed = guarded.signed(&["q", "--project", "p1", "--methods", "GET,POST"]);
    let headers = with(signed.clone(), "p1");
    let mut client = Zaqar::stranger(&guarded.server);
    let post = |queue: &str| json!({ "queue_name": queue, "messages": [{ "body": 1 }] });
    assert_eq!(client.ask_with("message_post", &headers, &post("q")).0, 201);
    let echo = json!({ "queue_name": "q", "echo": true });
    let (status, body) = client.ask_with("message_list", &headers, &echo);
    assert_eq!((status, body["messages"].as_array().unwrap().len()), (200, 1));
    let closed = refused("Not authentified.");
    assert_eq!(client.post("p1", "q"), closed, "it does not authenticate the connection");
    assert_eq!(client.ask_with("message_post", &headers, &post("r")), closed, "another queue");
    assert_eq!(client.ask_with("message_post", &with(signed.clone(), "p2"), &post("q")), closed);
    for action in ["claim_create", "queue_get", "queue_create", "queue_delete", "queue_get_stats"] {
        assert_eq!(client.ask_with(action, &headers, &json!({ "queue_name": "q" })), closed, "{action}");
    }
    let id = body["messages"][0]["id"].clone();
    let delete = json!({ "queue_name": "q", "message_id": id });
    assert_eq!(client.ask_with("message_delete", &headers, &delete), closed, "DELETE is not permitted");
    let changes: &[(&str, Value)] = &[
        ("URL-Methods", json!(["GET", "POST", "DELETE"])),
        ("URL-Methods", json!("GET,POST")),
        ("URL-Methods", json!(null)),
        ("URL-Paths", json!(["/v2/queues/q/messages", "/v2/queues/r/messages"])),
        ("URL-Expires", json!("2130-01-01T00:00:00")),
        ("URL-Expires", json!(4_000_000_000_u64)),
        ("URL-Signature", json!("0".repeat(64))),
        ("URL-Signature", json!("")),
    ];
    for (name, value) in changes {
        let mut changed = signed.clone();
        changed.insert((*name).into(), value.clone());
        let answer = client.ask_with("message_list", &with(changed, "p1"), &echo);
        assert_eq!(answer, closed, "{name}: {value}");
    }
    let deleter = with(guarded.signed(&["q", "--project", "p1", "--methods", "DELETE"]), "p1");
    assert_eq!(client.ask_with("message_delete", &deleter, &delete).0, 204);
    let claims = guarded.signed(&["q", "--project", "p1", "--paths", "claims"]);
    assert_eq!(client.ask_with("message_list", &with(claims, "p1"), &echo), closed, "another path");
    fs::write(guarded.place.0.join("key"), "the second key of this test\n").unwrap();
    guarded.server.signal("HUP");
    eventually("the other key", || {
        (client.ask_with("message_list", &headers, &echo) == closed).then_some(())
    });
    let anew = with(guarded.signed(&["q", "--project", "p1"]), "p1");
    assert_eq!(client.ask_with("message_list", &anew, &echo).0, 200);
    fs::write(guarded.place.0.join("key"), "short\n").unwrap();
    guarded.server.signal("HUP");
    guarded.server.wait_for_log("at least 16 are needed");
    guarded.server.wait_for_log("settings reloaded");
    assert_eq!(client.ask_with("message_list", &anew, &echo).0, 200, "a bad key changes nothing");
    let mut known = Zaqar::of(&guarded.server, "app", "p1");
    assert_eq!(known.ask_with("message_list", &with(signed, "p2"), &echo), refused("Not authenticated."));
    assert!(!guarded.server.log().iter().any(|line| line.contains("key of this test")));
}

#[test]
fn without_a_key_no_signature_is_accepted() {
    let place = Place::new("zaqar-unsigned");
    fs::write(place.0.join("tokens"), text(&[("app", "p1 all:*")])).unwrap();
    fs::write(place.0.join("key"), "the first key of this test\n").unwrap();
    let tokens = place.0.join("tokens").to_str().unwrap().to_owned();
    let server = Server::start(&["--cores", "0", "--auth", "static", "--auth-static-file", &tokens]);
    let guarded = Guarded { server, place };
    let mut headers = guarded.signed(&["q", "--project", "p1"]);
    headers.insert("Client-ID".into(), json!(ONE));
    headers.insert("X-Project-ID".into(), json!("p1"));
    let mut client = Zaqar::stranger(&guarded.server);
    let answer = client.ask_with("message_list", &Value::Object(headers), &json!({ "queue_name": "q" }));
    assert_eq!(answer, refused("Not authentified."));
}

#[test]
fn signing_refuses_what_no_request_could_use() {
    let guarded = Guarded::start("signing", &[("app", "p1 all:*")], &[]);
    let signed = guarded.signed(&["q", "--expires", "2130-01-01T02:00:00+02:00"]);
    assert_eq!(signed["URL-Expires"], "2130-01-01T00:00:00");
    assert_eq!(signed["URL-Methods"], json!(["GET"]));
    assert_eq!(signed["URL-Paths"], json!(["/v2/queues/q/messages"]));
    assert_eq!(signed["URL-Signature"].as_str().unwrap().len(), 64);
    for (arguments, words) in [
        (&["a b"][..], "queue"),
        (&["q", "--project", "a/b"], "project"),
        (&["q", "--methods", "PATCH"], "--methods"),
        (&["q", "--paths", "everything"], "--paths"),
        (&["q", "--expires", "2001-01-01T00:00:00"], "over already"),
        (&["q", "--expires", "soon"], "--expires"),
    ] {
        let output = guarded.sign(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && said.to_lowercase().contains(words),
            "{arguments:?}: {said}"
        );
    }
    fs::write(guarded.place.0.join("key"), "short").unwrap();
    let said = guarded.sign(&["q"]).stderr;
    assert!(String::from_utf8_lossy(&said).contains("at least 16"));
}

#[test]
fn a_server_does_not_start_with_a_key_that_does_not_work() {
    let place = Place::new("zaqar-key");
    fs::write(place.0.join("key"), "short").unwrap();
    fs::write(place.0.join("tokens"), text(&[("app", "p1 all:*")])).unwrap();
    let start = |auth: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--store", "memory", "--listen", "127.0.0.1:0"]).args(auth);
        let output = command.arg("--zaqar-signing-key-file").arg(place.0.join("key")).output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let tokens = place.0.join("tokens");
    let said = start(&["--auth", "static", "--auth-static-file", tokens.to_str().unwrap()]);
    assert!(said.contains("zaqar_signing_key_file") && said.contains("at least 16"), "{said}");
    fs::write(place.0.join("key"), "a key of some length").unwrap();
    let said = start(&[]);
    assert!(said.contains("zaqar_signing_key_file") && said.contains("auth"), "{said}");
}

#[test]
fn the_first_frame_decides_between_the_protocols() {
    let server = Server::start(&["--cores", "0"]);
    let mut client = Zaqar::connect(&server, "/any/path", &[]).unwrap();
    assert_eq!(client.post("shop", "q").0, 201, "text");
    // In fragments of one byte, with an empty one before them.
    let packed =
        b"\x83\xa6action\xaaqueue_list\xa7headers\x82\xa9Client-ID\xa1x\xacX-Project-ID\xa4shop\xa4body\x80";
    let mut socket = Zaqar::connect(&server, "/", &[]).unwrap().0;
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { panic!("TLS") };
    std::io::Write::write_all(stream, &frame(0x02, b"")).unwrap();
    for (index, byte) in packed.iter().enumerate() {
        let is_last = index + 1 == packed.len();
        std::io::Write::write_all(stream, &frame(if is_last { 0x80 } else { 0 }, &[*byte])).unwrap();
    }
    let Message::Binary(answer) = socket.read().unwrap() else { panic!("another frame type") };
    assert!(answer.windows(5).any(|window| window == b"\xa4name"), "{answer:?}");
    // Setups whose length begins like a map: from 129 bytes on.
    for chars in [40, 50, 53] {
        let mut consumer = Client::connect(&server);
        consumer.begin(&get(&"q".repeat(64), &"x".repeat(chars + 20), true));
        assert_eq!(consumer.receive_as::<Status>().status_code(), 400, "it is no marker");
    }
    let mut producer = Client::connect(&server);
    producer.begin(&append("q"));
    assert_eq!(code(&producer.receive_as::<ProduceSetupResponse>().status), 100);
    producer.send(&request(Some(60), &[b"x"]));
    assert_eq!(code(&producer.receive_as::<ProduceResponse>().status), 201);
    let offer = [("sec-websocket-protocol", "queuing-streaming.v1".to_owned())];
    let mut streaming = Zaqar::connect(&server, "/", &offer).unwrap();
    streaming.0.send(Message::text("{}")).unwrap();
    assert_eq!(streaming.close().0, 1003, "the subprotocol has no text messages");
}
