//! Tests authentication on open connections, of clients of the Zaqar API. The test plays the judge, in virtual time.

use std::net::SocketAddr;
use std::sync::Arc;

use millstream::access::{Grant, Projects, SigningKey};
use millstream::auth::{Answer, Denial, Verdict};
use millstream::base::names::Project;
use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::authentication::{Client, Rig, all, grant, settings, until};

const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

/// The reason of the Close at the end of a grant.
const EXPIRED: &str = "Authentication expired.";

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 4_000))
}

/// Connects without a credential.
fn stranger(rig: &mut Rig, last: u8) -> Client {
    let mut client = rig.connect_to("/v2", address(last), "");
    rig.run(&mut [&mut client]);
    client
}

fn text(action: &str, headers: Value, body: Value) -> Frame {
    let request = json!({ "action": action, "headers": headers, "body": body });
    Frame::message(request.to_string().into_bytes(), OpCode::Data(Data::Text), true)
}

fn authentication(token: &str) -> Frame {
    text("authenticate", json!({ "X-Auth-Token": token, "X-Project-ID": "acme" }), json!({}))
}

fn listing(project: &str) -> Frame {
    text("queue_list", json!({ "Client-ID": UUID, "X-Project-ID": project }), json!({}))
}

/// Returns the status and the body of the answers that have come.
fn answers(client: &mut Client) -> Vec<(u64, Value)> {
    let data = std::mem::take(&mut client.data);
    let parts = serde_json::Deserializer::from_slice(&data).into_iter::<Value>();
    parts
        .map(Result::unwrap)
        .map(|it| (it["headers"]["status"].as_u64().unwrap(), it["body"].clone()))
        .collect()
}

/// Sends a token, and gives the verdict on it.
fn authenticate(rig: &mut Rig, client: &mut Client, token: &str, verdict: Verdict) -> Vec<(u64, Value)> {
    rig.frame(client, authentication(token));
    let question = rig.question();
    rig.answer(&question, verdict);
    rig.run(&mut [client]);
    answers(client)
}

fn welcome() -> Vec<(u64, Value)> {
    vec![(200, json!({ "message": "Authentified." }))]
}

#[test]
fn requests_behind_a_token_wait_for_its_verdict() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
    rig.frame(&mut client, listing("acme"));
    assert_eq!(answers(&mut client), [(403, json!({ "error": "Not authentified." }))]);
    rig.frame(&mut client, authentication("t"));
    let question = rig.question();
    assert_eq!(rig.core.wanted_read(rig.now, client.id, 4_096), 0, "nothing is read meanwhile");
    rig.run(&mut [&mut client]);
    assert_eq!(answers(&mut client), []);
    rig.answer(&question, all());
    rig.run(&mut [&mut client]);
    assert_eq!(answers(&mut client), welcome());
    rig.frame(&mut client, listing("acme"));
    assert_eq!(answers(&mut client), [(200, json!({ "queues": [] }))]);
    for foreign in ["other", "Acme", "a/b"] {
        rig.frame(&mut client, listing(foreign));
        assert_eq!(answers(&mut client), [(403, json!({ "error": "Not authenticated." }))], "{foreign}");
    }
    rig.frame(&mut client, listing(""));
    assert_eq!(answers(&mut client)[0].0, 200, "the client's own project");
    assert_eq!((rig.counters().admitted, rig.counters().asked), (1, 1));
}

#[test]
fn a_stranger_has_a_time_to_authenticate() {
    let mut rig = Rig::new();
    let (mut idle, mut talking) = (stranger(&mut rig, 1), stranger(&mut rig, 2));
    rig.pass(5);
    rig.frame(&mut talking, listing("acme"));
    rig.pass(9);
    rig.run(&mut [&mut idle, &mut talking]);
    assert_eq!((&idle.close, &talking.close), (&None, &None));
    rig.frame(&mut talking, authentication("t"));
    let question = rig.question();
    rig.pass(11);
    rig.run(&mut [&mut idle, &mut talking]);
    assert_eq!(idle.close, Some((1008, "not authenticated within auth_timeout".into())));
    assert_eq!(talking.close, None, "its token was read in time");
    rig.answer(&question, Err(Denial::Unknown));
    rig.run(&mut [&mut talking]);
    assert_eq!(answers(&mut talking)[1], (401, json!({ "error": "Authentication failed." })));
    rig.pass(12);
    rig.run(&mut [&mut talking]);
    assert_eq!(talking.close.map(|(code, _)| code), Some(1008));
}

#[test]
fn the_connection_ends_when_the_grant_does() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    assert_eq!(authenticate(&mut rig, &mut client, "t", until(100)), welcome());
    rig.pass(99);
    rig.frame(&mut client, listing("acme"));
    assert_eq!(answers(&mut client)[0].0, 200);
    assert_eq!(client.close, None);
    rig.pass(100);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((4003, EXPIRED.into())));
    assert_eq!(rig.counters().expired, 1);
}

#[test]
fn nothing_is_done_for_a_client_whose_grant_has_ended() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    authenticate(&mut rig, &mut client, "t", until(100));
    rig.now = crate::authentication::at(100);
    rig.core.handle_timeouts(rig.now);
    assert_eq!(rig.core.wanted_read(rig.now, client.id, 4_096), 0, "before the Close is written");
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((4003, EXPIRED.into())));
}

#[test]
fn a_credential_of_the_handshake_ends_alike() {
    let mut rig = Rig::new();
    let mut client = rig.connect_to("/v2", address(1), "X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, until(50));
    rig.run(&mut [&mut client]);
    rig.frame(&mut client, listing("acme"));
    assert_eq!(answers(&mut client)[0].0, 200);
    rig.pass(50);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((4003, EXPIRED.into())));
    let mut refused = rig.connect_to("/v2", address(2), "X-Auth-Token: u\r\n");
    let question = rig.question();
    rig.answer(&question, Err(Denial::Unknown));
    rig.run(&mut [&mut refused]);
    assert!(refused.head.starts_with("HTTP/1.1 401"), "{}", refused.head);
}

#[test]
fn authenticating_again_restarts_the_time_also_as_somebody_else() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    authenticate(&mut rig, &mut client, "t", until(100));
    rig.pass(50);
    let refused = authenticate(&mut rig, &mut client, "u", Err(Denial::Unknown));
    assert_eq!(refused, [(401, json!({ "error": "Authentication failed." }))]);
    rig.frame(&mut client, listing("acme"));
    assert_eq!(answers(&mut client)[0].0, 200, "a failed one leaves the old one valid");
    let other = Grant {
        principal: "static:other".into(),
        projects: Projects::Listed([Project::parse("elsewhere").unwrap()].into()),
        ..(*until(200).unwrap()).clone()
    };
    assert_eq!(authenticate(&mut rig, &mut client, "v", Ok(Arc::new(other))), welcome());
    rig.pass(150);
    rig.frame(&mut client, listing("acme"));
    assert_eq!(answers(&mut client), [(403, json!({ "error": "Not authenticated." }))]);
    rig.frame(&mut client, listing("elsewhere"));
    assert_eq!(answers(&mut client)[0].0, 200);
    rig.pass(200);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((4003, EXPIRED.into())));
    assert_eq!((rig.counters().admitted, rig.counters().renewed), (1, 1));
}

#[test]
fn tokens_one_after_another_do_not_put_the_end_off() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    authenticate(&mut rig, &mut client, "t", until(100));
    rig.pass(99);
    rig.frame(&mut client, authentication("u"));
    let question = rig.question();
    rig.pass(101);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, None, "a token that was read before the end is waited for");
    rig.answer(&question, Err(Denial::Unknown));
    rig.frame(&mut client, authentication("v"));
    assert!(rig.core.poll_question().is_none());
    rig.pass(102);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((4003, EXPIRED.into())));
}

#[test]
fn a_revoked_grant_ends_the_connection() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    rig.frame(&mut client, authentication("t"));
    let question = rig.question();
    rig.answer(&question, all());
    let changed = Answer::Changed([(question.key, Err(Denial::Revoked))].into());
    rig.core.handle_answer(rig.now, changed);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((4003, EXPIRED.into())));
    assert_eq!(rig.counters().revoked, 1);
}

#[test]
fn a_verdict_that_does_not_come_is_503_and_a_throttled_one_429() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    rig.frame(&mut client, authentication("t"));
    let late = rig.question();
    rig.pass(9);
    rig.run(&mut [&mut client]);
    assert_eq!(answers(&mut client), []);
    rig.pass(10);
    rig.run(&mut [&mut client]);
    assert_eq!(answers(&mut client)[0].0, 503);
    rig.answer(&late, all());
    let mut other = stranger(&mut rig, 2);
    assert_eq!(authenticate(&mut rig, &mut other, "u", Err(Denial::Throttled))[0].0, 429);
    assert_eq!(rig.counters().admitted, 0, "a late verdict admits nobody");
}

#[test]
fn strangers_are_bounded_until_they_authenticate() {
    let mut rig = Rig::new();
    let mut strangers: Vec<Client> = (0..64).map(|_| stranger(&mut rig, 1)).collect();
    let refused = stranger(&mut rig, 1);
    assert!(refused.head.starts_with("HTTP/1.1 429") && refused.head.contains("64"), "{}", refused.head);
    assert!(stranger(&mut rig, 2).head.starts_with("HTTP/1.1 101"), "of another address");
    authenticate(&mut rig, &mut strangers[0], "t", all());
    assert!(stranger(&mut rig, 1).head.starts_with("HTTP/1.1 101"));
    assert!(stranger(&mut rig, 1).head.starts_with("HTTP/1.1 429"));
    rig.core.handle_gone(rig.now, strangers[1].id);
    assert!(stranger(&mut rig, 1).head.starts_with("HTTP/1.1 101"));
    let mut rig = Rig::with(millstream::shard::core::Settings { unauthenticated_max: 0, ..settings() });
    let refused = stranger(&mut rig, 1);
    assert!(refused.head.contains("unauthenticated_max"), "{}", refused.head);
}

#[test]
fn a_large_request_of_a_stranger_is_not_read() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    rig.frame(&mut client, authentication(&"x".repeat(40_000)));
    assert_eq!(client.close.as_ref().map(|(code, _)| *code), Some(1009));
    let mut client = stranger(&mut rig, 1);
    rig.frame(&mut client, authentication(&"x".repeat(17_000)));
    assert_eq!(
        answers(&mut client),
        [(401, json!({ "error": "Authentication failed." }))],
        "no token is so long"
    );
    rig.frame(&mut client, authentication(""));
    assert_eq!(answers(&mut client)[0].0, 401);
    assert!(rig.core.poll_question().is_none());
}

#[test]
fn a_signature_spares_a_client_from_authenticating() {
    let mut settings = settings();
    let key = SigningKey::new(b"a key of 16 bytes").unwrap();
    settings.operation.signing_key = Some(key.clone());
    let mut rig = Rig::with(settings);
    let mut clients: Vec<Client> = (0..64).map(|_| stranger(&mut rig, 1)).collect();
    let paths = vec!["/v2/queues/q/messages"];
    // 60 seconds after the rig's first.
    let expires = millstream::base::millis::UnixMillis::new(1_700_000_060_000);
    let permission = millstream::access::Permission { paths, methods: vec!["GET"], project: "acme", expires };
    let headers = |project: &str| {
        json!({
            "Client-ID": UUID, "X-Project-ID": project, "URL-Signature": key.sign(&permission).unwrap(),
            "URL-Expires": permission.ends().unwrap(), "URL-Methods": ["GET"],
            "URL-Paths": ["/v2/queues/q/messages"],
        })
    };
    let client = &mut clients[0];
    rig.frame(client, text("message_list", headers("acme"), json!({ "queue_name": "q" })));
    assert_eq!(answers(client), [(200, json!({ "messages": [] }))]);
    for (action, project, body) in [
        ("message_list", "acme", json!({ "queue_name": "other" })),
        ("message_list", "elsewhere", json!({ "queue_name": "q" })),
        ("message_list", "", json!({ "queue_name": "q" })),
        ("message_post", "acme", json!({ "queue_name": "q", "messages": [{ "body": 1 }] })),
        ("message_delete", "acme", json!({ "queue_name": "q", "message_id": "x" })),
        ("claim_create", "acme", json!({ "queue_name": "q" })),
        ("queue_get", "acme", json!({ "queue_name": "q" })),
        ("queue_list", "acme", json!({})),
    ] {
        rig.frame(client, text(action, headers(project), body));
        assert_eq!(answers(client), [(403, json!({ "error": "Not authentified." }))], "{action} {project}");
    }
    assert!(stranger(&mut rig, 1).head.starts_with("HTTP/1.1 101"), "it no longer takes a stranger's place");
    rig.pass(59);
    let client = &mut clients[0];
    rig.run(&mut [client]);
    rig.frame(client, text("message_list", headers("acme"), json!({ "queue_name": "q" })));
    assert_eq!((answers(client)[0].0, &client.close), (200, &None));
    rig.pass(61);
    rig.run(&mut [client]);
    assert_eq!(client.close.as_ref().map(|(code, _)| *code), Some(1008), "its signature has expired");
}

#[test]
fn a_smaller_grant_counts_at_once() {
    let mut rig = Rig::new();
    let mut client = stranger(&mut rig, 1);
    rig.frame(&mut client, authentication("t"));
    let question = rig.question();
    rig.answer(&question, all());
    rig.run(&mut [&mut client]);
    answers(&mut client);
    let create = || {
        text(
            "queue_create",
            json!({ "Client-ID": UUID, "X-Project-ID": "acme" }),
            json!({ "queue_name": "q" }),
        )
    };
    rig.frame(&mut client, create());
    assert_eq!(answers(&mut client)[0].0, 201);
    let changed = Answer::Changed([(question.key, Ok(Arc::new(grant(&["consume:q"]))))].into());
    rig.core.handle_answer(rig.now, changed);
    rig.frame(&mut client, create());
    assert_eq!((answers(&mut client)[0].0, &client.close), (403, &None));
}
