//! Tests the API of Zaqar at `/v2` on the real binary: what each action does, beside streaming clients, over restarts, and
//! with input that is wrong. What the official server answers is compared in `tests/independent/zaqar`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::time::Duration;

use base64::prelude::*;
use common::zaqar::{CLIENT, OTHER, Zaqar, member};
use common::{Client, Server, append, eventually, others_are_served, producer};
use millstream::pb::headers::{HeaderRef, put_header};
use millstream::pb::{ProduceRequest, ProduceResponse};
use place::Place;
use prost::bytes::Bytes;
use rmpv::Value as Pack;
use serde_json::{Value, json};
use tungstenite::Message as WsMessage;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

fn memory(arguments: &[&str]) -> Server {
    Server::start(&[&["--store", "memory"], arguments].concat())
}

/// Runs a test on both stores, with two shards.
fn on_both_stores(name: &str, test: impl Fn(&Server)) {
    test(&memory(&[]));
    let place = Place::new(name);
    let data = place.data();
    test(&Server::start(&["--store", "log", "--data-dir", data.to_str().unwrap()]));
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["messages"].as_array().unwrap().iter().map(|message| message["id"].as_str().unwrap()).collect()
}

#[test]
fn queues_are_created_listed_described_and_deleted() {
    on_both_stores("zaqar-queues", |server| {
        let mut zaqar = Zaqar::connect(server);
        let created = json!("Queue q created.");
        let metadata =
            json!({"note": "é", "_default_message_ttl": 300, "_retry_policy": {"minimum_delay": 1}});
        let create = json!({"queue_name": "q", "metadata": metadata});
        assert_eq!(zaqar.ask("queue_create", create), (201, created.clone()));
        assert_eq!(
            zaqar.ask("queue_create", json!({"queue_name": "q", "metadata": {"x": 1}})),
            (204, created)
        );
        assert_eq!(zaqar.ask("queue_get", json!({"queue_name": "q"})), (200, metadata.clone()));
        assert_eq!(zaqar.ask("queue_get", json!({"queue_name": "none"})), (200, json!({})));
        for name in ["b", "a", "c.d-e_F"] {
            zaqar.get(201, "queue_create", json!({"queue_name": name}));
        }
        let names = |answer: Value| -> Vec<String> {
            let queues = answer["queues"].as_array().unwrap().iter();
            queues.map(|queue| queue["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(zaqar.get(200, "queue_list", json!({}))), ["a", "b", "c.d-e_F", "q"]);
        let page = json!({"limit": 2, "marker": "a"});
        assert_eq!(names(zaqar.get(200, "queue_list", page)), ["b", "c.d-e_F"]);
        assert_eq!(names(zaqar.get(200, "queue_list", json!({"marker": "c/ no name"}))), ["q"]);
        let detailed = zaqar.get(200, "queue_list", json!({"detailed": true, "marker": "c.d-e_F"}));
        assert_eq!(detailed, json!({"queues": [{"name": "q", "metadata": metadata}]}));
        assert_eq!(
            Zaqar::connect(server).of_project("other").get(200, "queue_list", json!({})),
            json!({"queues": []})
        );
        for limit in [0, 21, -1] {
            zaqar.get(400, "queue_list", json!({"limit": limit}));
        }
        for bad in ["", "a b", "é", &"a".repeat(65), "a/b"] {
            zaqar.get(400, "queue_create", json!({"queue_name": bad}));
            assert_eq!(zaqar.get(200, "queue_get", json!({"queue_name": bad})), json!({}));
            zaqar.get(404, "queue_get_stats", json!({"queue_name": bad}));
        }
        for metadata in [json!([1]), json!({"_default_message_ttl": 0}), json!({"_max_claim_count": true})] {
            zaqar.get(400, "queue_create", json!({"queue_name": "bad", "metadata": metadata}));
        }
        let large = json!({"queue_name": "bad", "metadata": {"x": "y".repeat(65_536)}});
        zaqar.get(400, "queue_create", large);
        let delete = json!({"queue_name": "q"});
        assert_eq!(zaqar.ask("queue_delete", delete.clone()), (204, json!("Queue q removed.")));
        assert_eq!(zaqar.ask("queue_delete", delete), (204, json!("Queue q removed.")));
        assert_eq!(names(zaqar.get(200, "queue_list", json!({}))), ["a", "b", "c.d-e_F"]);
        let empty = json!({"messages": {"free": 0, "claimed": 0, "total": 0}});
        assert_eq!(zaqar.ask("queue_get_stats", json!({"queue_name": "q"})), (404, empty.clone()));
        assert_eq!(zaqar.ask("queue_get_stats", json!({"queue_name": "a"})), (200, empty));
    });
}

#[test]
fn messages_are_posted_listed_read_and_deleted() {
    on_both_stores("zaqar-messages", |server| {
        let (mut zaqar, mut other) = (Zaqar::connect(server), Zaqar::connect(server).of_client(OTHER));
        let bodies =
            [json!({"a": [1, 2.5, null, true], "é": "ü\u{1F30A}"}), json!(null), json!("text"), json!(7)];
        let posted = zaqar.post("q", &bodies);
        assert_eq!(zaqar.bodies("q"), bodies);
        assert_eq!(zaqar.get(200, "message_list", json!({"queue_name": "q"}))["messages"], json!([]));
        let first = other.get(200, "message_list", json!({"queue_name": "q", "limit": 3}));
        assert_eq!(ids(&first), posted[..3]);
        let message = json!({"id": posted[1], "claim_id": null, "ttl": 600, "age": 0, "body": null});
        assert_eq!(first["messages"][1], message);
        for marker in [&first["marker"], &json!(posted[2])] {
            let next = other.get(200, "message_list", json!({"queue_name": "q", "marker": marker}));
            assert_eq!(ids(&next), posted[3..]);
        }
        let foreign = other.get(200, "message_list", json!({"queue_name": "q", "marker": "7"}));
        assert_eq!(foreign["messages"], json!([]));
        let one = |id: &str| json!({"queue_name": "q", "message_id": id});
        assert_eq!(zaqar.get(200, "message_get", one(&posted[1]))["messages"], message);
        let many = json!({"queue_name": "q", "message_ids": [posted[3], "x", 5, posted[0], posted[3]]});
        assert_eq!(ids(&zaqar.get(200, "message_get_many", many)), [&posted[0], &posted[3]]);
        assert_eq!(zaqar.ask("message_delete", one(&posted[0])), (204, json!({})));
        zaqar.get(404, "message_get", one(&posted[0]));
        assert_eq!(zaqar.ask("message_delete", one(&posted[0])).0, 204);
        let both = json!({"queue_name": "q", "message_ids": [posted[1], posted[0]]});
        assert_eq!(zaqar.ask("message_delete_many", both), (204, json!({})));
        assert_eq!(zaqar.bodies("q"), bodies[2..]);
        for (count, field) in [(0, "message_ids"), (21, "message_ids")] {
            let ids = vec!["x"; count];
            zaqar.get(400, "message_get_many", json!({"queue_name": "q", field: ids}));
            zaqar.get(400, "message_delete_many", json!({"queue_name": "none", field: ids}));
        }
        let popped = zaqar.get(200, "message_delete_many", json!({"queue_name": "q", "pop": 20}));
        let expected = json!({"id": posted[2], "claim_id": null, "ttl": 600, "age": 0, "body": "text", "claim_count": 0});
        assert_eq!((ids(&popped), &popped["messages"][0]), (vec![&*posted[2], &*posted[3]], &expected));
        let pop = |pop: i64| json!({"queue_name": "q", "pop": pop});
        assert_eq!(zaqar.ask("message_delete_many", pop(1)), (200, json!({"messages": []})));
        for body in [
            pop(0),
            pop(21),
            json!({"queue_name": "q"}),
            json!({"queue_name": "q", "pop": 1, "message_ids": []}),
        ] {
            zaqar.get(400, "message_delete_many", body);
        }
        zaqar.get(200, "message_list", json!({"queue_name": "never made"}));
        zaqar.get(200, "message_get_many", json!({"queue_name": "never", "message_ids": ["x"]}));
    });
}

#[test]
fn a_post_is_stored_whole_or_not_at_all() {
    let server = memory(&[]);
    let mut zaqar = Zaqar::connect(&server);
    let post = |messages: Value| json!({"queue_name": "q", "messages": messages});
    let text = |answer: Value| answer["exception"].as_str().unwrap().to_owned();
    for (messages, why) in [
        (json!([]), "messages"),
        (json!([{"body": 1}, {"ttl": 60}]), "Bad request. Missing \"body\" field."),
        (
            json!([{"body": 1}, {"body": 1, "ttl": 60.5}]),
            "Bad request. The value of the \"ttl\" field must be a int.",
        ),
        (
            json!([{"body": 1}, {"body": 1, "ttl": true}]),
            "Bad request. The value of the \"ttl\" field must be a int.",
        ),
        (json!([{"body": 1}, {"body": 1, "ttl": 59}]), "ttl"),
        (json!([{"body": 1}, {"body": 1, "ttl": 1_209_601}]), "ttl"),
        (json!([{"body": 1}, 5]), "map"),
        (json!([{"body": "x".repeat(262_144)}]), "262144"),
    ] {
        let answer = text(zaqar.get(400, "message_post", post(messages)));
        assert!(answer.contains(why), "{answer}");
    }
    let refused =
        Zaqar::connect(&server).of_client("nobody").get(400, "message_post", post(json!([{"body": 1}])));
    assert_eq!(text(refused), "badly formed hexadecimal UUID string");
    assert_eq!(zaqar.bodies("q"), [] as [Value; 0]);
    // Characters count, not bytes. Clients are compared as UUIDs.
    zaqar.get(201, "message_post", post(json!([{"body": "é".repeat(150_000)}])));
    let mut spelled =
        Zaqar::connect(&server).of_client(&format!("{{{}}}", CLIENT.replace('-', "").to_uppercase()));
    assert_eq!(spelled.get(200, "message_list", json!({"queue_name": "q"}))["messages"], json!([]));
    let ids: Vec<Value> =
        (0..25).map(|body| json!({"body": body, "ttl": 60 + body % 3, "delay": 900})).collect();
    let answer = zaqar.get(201, "message_post", json!({"queue_name": "order", "messages": ids}));
    assert_eq!(answer["message_ids"].as_array().unwrap().len(), 25);
    assert_eq!(zaqar.bodies("order"), (0..20).map(Value::from).collect::<Vec<_>>(), "at once, and in order");
}

#[test]
fn a_claim_belongs_to_those_who_know_its_id() {
    on_both_stores("zaqar-claims", |server| {
        let (mut zaqar, mut other) = (Zaqar::connect(server), Zaqar::connect(server).of_client(OTHER));
        let posted = zaqar.post("q", &[json!(0), json!(1), json!(2), json!(3)]);
        let create = json!({"queue_name": "q", "limit": 2, "ttl": 100, "grace": 60});
        let claim = zaqar.get(201, "claim_create", create);
        let id = claim["claim_id"].as_str().unwrap().to_owned();
        assert_eq!(ids(&claim), posted[..2]);
        assert_eq!(claim["messages"][0]["claim_id"], json!(id));
        let of = |queue: &str, claim: &str| json!({"queue_name": queue, "claim_id": claim});
        let held = other.get(200, "claim_get", of("q", &id));
        assert_eq!((&held["ttl"], &held["age"], ids(&held)), (&json!(100), &json!(0), ids(&claim)));
        let visible = other.get(200, "message_list", json!({"queue_name": "q"}));
        assert_eq!(ids(&visible), posted[2..]);
        let all = other.get(200, "message_list", json!({"queue_name": "q", "include_claimed": true}));
        assert_eq!((ids(&all).len(), &all["messages"][0]["claim_id"]), (4, &Value::Null));
        let stats = &zaqar.get(200, "queue_get_stats", json!({"queue_name": "q"}))["messages"];
        assert_eq!((&stats["free"], &stats["claimed"], &stats["total"]), (&json!(2), &json!(2), &json!(4)));
        assert_eq!((&stats["oldest"]["id"], &stats["newest"]["id"]), (&json!(posted[0]), &json!(posted[3])));
        let delete = |message: &str, claim: Option<&str>| match claim {
            Some(claim) => json!({"queue_name": "q", "message_id": message, "claim_id": claim}),
            None => json!({"queue_name": "q", "message_id": message}),
        };
        other.get(403, "message_delete", delete(&posted[0], None));
        other.get(400, "message_delete", delete(&posted[0], Some("no id")));
        other.get(400, "message_delete", delete(&posted[3], Some(&id)));
        other.get(204, "message_delete", delete(&posted[0], Some(&id)));
        other.get(204, "message_delete", delete(&posted[0], Some(&id)));
        assert_eq!(ids(&other.get(200, "claim_get", of("q", &id))), [&posted[1]]);
        // Of another queue or project, an id means nothing.
        other.get(201, "queue_create", json!({"queue_name": "r"}));
        other.get(404, "claim_get", of("r", &id));
        other.get(404, "message_get", json!({"queue_name": "r", "message_id": posted[1]}));
        let mut stranger = Zaqar::connect(server).of_project("stranger");
        stranger.post("q", &[json!("theirs")]);
        stranger.get(404, "claim_get", of("q", &id));
        stranger.get(404, "claim_update", of("q", &id));
        stranger.get(204, "claim_delete", of("q", &id));
        stranger.get(204, "message_delete", delete(&posted[1], Some(&id)));
        assert_eq!(ids(&other.get(200, "claim_get", of("q", &id))), [&posted[1]]);
        let updated = json!(format!("Claim {id} updated."));
        assert_eq!(other.ask("claim_update", of("q", &id)), (204, updated));
        assert_eq!(other.get(200, "claim_get", of("q", &id))["ttl"], 300, "an absent ttl is the default");
        assert_eq!(other.ask("claim_delete", of("q", &id)), (204, json!(format!("Claim {id} deleted."))));
        other.get(404, "claim_get", of("q", &id));
        other.get(404, "claim_update", of("q", &id));
        let next = zaqar.get(201, "claim_create", json!({"queue_name": "q"}));
        assert_eq!(ids(&next), posted[1..], "a claim goes on behind what was given out before");
        assert_eq!(zaqar.ask("claim_create", json!({"queue_name": "q"})), (204, json!({"claim_id": null})));
        assert_eq!(
            zaqar.ask("claim_create", json!({"queue_name": "none"})),
            (204, json!({"claim_id": null}))
        );
        zaqar.get(204, "message_delete_many", json!({"queue_name": "q", "message_ids": posted}));
        zaqar.get(404, "claim_get", of("q", next["claim_id"].as_str().unwrap()));
        for (field, value) in [("ttl", 59), ("ttl", 43_201), ("grace", 59), ("limit", 0), ("limit", 21)] {
            zaqar.get(400, "claim_create", json!({"queue_name": "q", field: value}));
        }
    });
}

#[test]
fn claims_and_ids_survive_a_restart_and_end_with_their_queue() {
    let place = Place::new("zaqar-restart");
    let data = place.data();
    let arguments = ["--store", "log", "--data-dir", data.to_str().unwrap()];
    let server = Server::start(&arguments);
    let mut zaqar = Zaqar::connect(&server);
    let posted = zaqar.post("q", &[json!("a"), json!("b")]);
    let claim = zaqar.get(201, "claim_create", json!({"queue_name": "q", "limit": 1}));
    server.signal("KILL");
    server.wait();
    let server = Server::start(&arguments);
    let mut zaqar = Zaqar::connect(&server);
    let of_claim = json!({"queue_name": "q", "claim_id": claim["claim_id"]});
    assert_eq!(ids(&zaqar.get(200, "claim_get", of_claim.clone())), [&posted[0]]);
    let other = zaqar.get(201, "claim_create", json!({"queue_name": "q"}));
    assert_eq!(ids(&other), [&posted[1]]);
    assert_ne!(other["claim_id"], claim["claim_id"]);
    // Another connection that knows the queue learns of its end, and of the next one.
    let mut second = Zaqar::connect(&server);
    second.get(200, "message_get", json!({"queue_name": "q", "message_id": posted[0]}));
    zaqar.get(204, "queue_delete", json!({"queue_name": "q"}));
    let again = zaqar.post("q", &[json!("new")]);
    assert_ne!(again[0], posted[0]);
    for zaqar in [&mut zaqar, &mut second] {
        zaqar.get(404, "message_get", json!({"queue_name": "q", "message_id": posted[0]}));
        zaqar.get(404, "claim_get", of_claim.clone());
        zaqar.get(200, "message_get", json!({"queue_name": "q", "message_id": again[0]}));
        let stats = &zaqar.get(200, "queue_get_stats", json!({"queue_name": "q"}))["messages"];
        assert_eq!((&stats["total"], &stats["oldest"]["id"]), (&json!(1), &json!(again[0])));
    }
}

#[test]
fn requests_sent_without_waiting_are_answered_in_order_as_if_one_by_one() {
    on_both_stores("zaqar-pipeline", |server| {
        let mut zaqar = Zaqar::connect(server);
        for number in 0..300 {
            zaqar.send("message_post", json!({"queue_name": "q", "messages": [{"body": number}]}));
        }
        zaqar.send("queue_get_stats", json!({"queue_name": "q"}));
        zaqar.send("claim_create", json!({"queue_name": "q", "limit": 20}));
        zaqar.send("claim_create", json!({"queue_name": "q", "limit": 20}));
        zaqar.send("message_list", json!({"queue_name": "q", "echo": true, "limit": 1}));
        zaqar.send("queue_delete", json!({"queue_name": "q"}));
        zaqar.send("message_list", json!({"queue_name": "q", "echo": true}));
        zaqar.send("nonsense", json!({}));
        for number in 0..300 {
            let answer = zaqar.receive();
            assert_eq!(answer["headers"]["status"], 201, "{answer}");
            assert_eq!(answer["request"]["body"]["messages"][0]["body"], number);
        }
        assert_eq!(zaqar.answer().1["messages"]["total"], 300);
        let claimed = [zaqar.answer().1, zaqar.answer().1];
        let bodies = claimed.iter().flat_map(|claim| claim["messages"].as_array().unwrap());
        let bodies: Vec<u64> = bodies.map(|message| message["body"].as_u64().unwrap()).collect();
        assert_eq!(bodies, (0..40).collect::<Vec<_>>());
        assert_eq!(zaqar.answer().1["messages"][0]["body"], 40);
        assert_eq!(zaqar.answer().0, 204);
        assert_eq!(zaqar.answer().1["messages"], json!([]));
        let refused = (400, json!({"error": "nonsense is not a valid action"}));
        assert_eq!(zaqar.answer(), refused);
    });
}

#[test]
fn each_request_names_its_project() {
    let server = memory(&[]);
    let mut zaqar = Zaqar::connect(&server);
    let mut posted = Vec::new();
    for project in ["one", "two", "one", "", "two"] {
        zaqar.project = project.to_owned();
        posted.push(zaqar.post("q", &[json!(project)]).remove(0));
    }
    for (project, bodies) in [("one", 2), ("two", 2), ("default", 1), ("three", 0)] {
        zaqar.project = project.to_owned();
        assert_eq!(zaqar.bodies("q").len(), bodies, "{project}");
    }
    zaqar.project = "two".to_owned();
    zaqar.get(404, "message_get", json!({"queue_name": "q", "message_id": posted[0]}));
    zaqar.get(200, "message_get", json!({"queue_name": "q", "message_id": posted[1]}));
}

#[test]
fn a_queue_may_be_deleted_while_others_use_it() {
    on_both_stores("zaqar-deleted", |server| {
        let mut users: Vec<Zaqar> = (0..4).map(|_| Zaqar::connect(server)).collect();
        let mut eraser = Zaqar::connect(server);
        for _ in 0..100 {
            for user in &mut users {
                user.send("message_post", json!({"queue_name": "q", "messages": [{"body": 1}]}));
                user.send("claim_create", json!({"queue_name": "q"}));
                user.send("message_list", json!({"queue_name": "q", "echo": true}));
                user.send("queue_get_stats", json!({"queue_name": "q"}));
            }
            eraser.get(204, "queue_delete", json!({"queue_name": "q"}));
            for user in &mut users {
                let statuses = [0; 4].map(|_| user.answer().0);
                let [post, claim, list, stats] = statuses;
                assert!(matches!((post, list), (201, 200)), "{statuses:?}");
                assert!([201, 204].contains(&claim) && [200, 404].contains(&stats), "{statuses:?}");
            }
        }
        eraser.get(204, "queue_delete", json!({"queue_name": "q"}));
        users[0].post("q", &[json!("last")]);
        assert!(users.iter_mut().all(|user| user.bodies("q") == [json!("last")]));
        assert_eq!(server.metric("millstream_connection_panics_total"), 0);
    });
}

#[test]
fn a_subscription_without_time_ends_at_once_and_holds_up_nothing() {
    let server = memory(&[]);
    for number in 0..8 {
        let mut zaqar = Zaqar::connect(&server);
        let name = format!("q{number}");
        zaqar.send("subscription_create", json!({"queue_name": name, "ttl": 0}));
        zaqar.send("subscription_list", json!({"queue_name": name}));
        assert_eq!(zaqar.answer().0, 201);
        assert_eq!(zaqar.answer().0, 200);
        eventually("its end", || {
            let list = zaqar.get(200, "subscription_list", json!({"queue_name": name}));
            (list["subscriptions"] == json!([])).then_some(())
        });
    }
}

#[test]
fn message_pack_bodies_come_back_as_they_were_posted() {
    let server = memory(&[]);
    let mut zaqar = Zaqar::connect(&server);
    let text = |text: &str| Pack::from(text);
    let body = Pack::Map(vec![
        (text("bytes"), Pack::Binary(vec![0, 255, 7])),
        (text("text as bytes"), Pack::Binary(b"abc".to_vec())),
        (text("genuine"), Pack::Map(vec![(text("base64"), text("AP8H"))])),
        (text("numbers"), Pack::Array(vec![Pack::from(u64::MAX), Pack::from(-5), Pack::F64(0.5)])),
    ]);
    let message = Pack::Map(vec![(text("body"), body.clone())]);
    let post =
        Pack::Map(vec![(text("queue_name"), text("q")), (text("messages"), Pack::Array(vec![message]))]);
    let answer = zaqar.ask_packed("message_post", post.clone());
    assert_eq!(member(member(&answer, "headers"), "status").as_u64(), Some(201), "{answer}");
    assert_eq!(member(member(&answer, "request"), "body"), &post, "the request is echoed");
    let list = Pack::Map(vec![(text("queue_name"), text("q")), (text("echo"), Pack::from(true))]);
    let answer = zaqar.ask_packed("message_list", list);
    let messages = member(member(&answer, "body"), "messages").as_array().unwrap();
    assert_eq!(member(&messages[0], "body"), &body);
    // A JSON reader gets bytes as text if they are UTF-8.
    let seen = &zaqar.bodies("q")[0];
    assert_eq!(seen["bytes"], json!({"base64": "AP8H"}));
    assert_eq!((&seen["text as bytes"], &seen["genuine"]), (&json!("abc"), &json!({"base64": "AP8H"})));
    for bad in
        [Pack::Ext(1, vec![2]), Pack::F64(f64::NAN), Pack::Map(vec![(Pack::Binary(vec![1]), Pack::Nil)])]
    {
        let message = Pack::Map(vec![(text("body"), bad)]);
        let post =
            Pack::Map(vec![(text("queue_name"), text("q")), (text("messages"), Pack::Array(vec![message]))]);
        let answer = zaqar.ask_packed("message_post", post);
        assert_eq!(member(member(&answer, "headers"), "status").as_u64(), Some(400), "{answer}");
    }
}

#[test]
fn streaming_clients_use_the_same_queues() {
    let server = memory(&["--partitions", "1"]);
    let mut streaming = producer(&server, "q");
    let mut json_header = Vec::new();
    put_header(HeaderRef { name: "content-type", value: Some(b"application/json") }, &mut json_header);
    let payloads: [&'static [u8]; 4] = [b"plain", b"\xff\x00", b"{\"a\":1}", b"{broken"];
    let headers = [&b""[..], b"", &json_header, &json_header];
    let request = ProduceRequest {
        ttl: Some(600),
        payloads: payloads.map(Bytes::from_static).to_vec(),
        headers: headers.map(Bytes::copy_from_slice).to_vec(),
        ..ProduceRequest::default()
    };
    streaming.send(&request);
    eventually("all four", || {
        (streaming.receive_as::<ProduceResponse>().msgnum_status_is_thru == Some(4)).then_some(())
    });
    let mut zaqar = Zaqar::connect(&server).of_project("default").of_client(OTHER);
    let bodies = [json!("plain"), json!({"base64": "/wA="}), json!({"a": 1}), json!("{broken")];
    assert_eq!(zaqar.bodies("q"), bodies);
    zaqar.get(
        201,
        "message_post",
        json!({"queue_name": "q", "messages": [{"body": {"x": [1, "é"]}, "ttl": 60}]}),
    );
    let mut command = server.run(&["consume", "q", "--count", "5", "--json"]);
    let output = command.output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["payload"], json!(BASE64_STANDARD.encode("{\"x\":[1,\"é\"]}")), "{lines}");
    assert!(last.to_string().contains("application/json"), "{last}");
}

#[test]
fn subscribers_hear_of_messages_in_order_until_they_leave() {
    on_both_stores("zaqar-subscriptions", |server| {
        let (mut zaqar, mut other) = (Zaqar::connect(server), Zaqar::connect(server).of_client(OTHER));
        other.post("q", &[json!("before")]);
        let subscribed =
            zaqar.get(201, "subscription_create", json!({"queue_name": "q", "options": {"a": [1]}}));
        assert_eq!(subscribed["message"], "Subscription q created.");
        let again = zaqar.ask("subscription_create", json!({"queue_name": "q"}));
        assert_eq!(again, (409, json!("Subscription q not created.")));
        let heard = |body: Value, ttl: u32| json!({"body": body, "ttl": ttl, "queue_name": "q", "Message_Type": "Notification"});
        other.get(
            201,
            "message_post",
            json!({"queue_name": "q", "messages": [{"body": 1}, {"body": "é", "ttl": 60}]}),
        );
        assert_eq!(zaqar.receive(), heard(json!(1), 3_600));
        assert_eq!(zaqar.receive(), heard(json!("é"), 60));
        // Its own messages too, beside the answer.
        zaqar.send("message_post", json!({"queue_name": "q", "messages": [{"body": "mine"}]}));
        let (one, two) = (zaqar.receive(), zaqar.receive());
        let (answer, told) = if one["request"].is_null() { (two, one) } else { (one, two) };
        assert_eq!((&answer["headers"]["status"], told), (&json!(201), heard(json!("mine"), 3_600)));
        let id = subscribed["subscription_id"].as_str().unwrap();
        let one = json!({"queue_name": "q", "subscription_id": id});
        let found = other.get(200, "subscription_get", one.clone());
        assert_eq!(
            (&found["source"], &found["ttl"], &found["options"]),
            (&json!("q"), &json!(3_600), &json!({"a": [1]}))
        );
        let list = json!({"queue_name": "q"});
        assert_eq!(other.get(200, "subscription_list", list.clone())["subscriptions"], json!([found]));
        // It outlives its queue.
        other.get(204, "queue_delete", json!({"queue_name": "q"}));
        other.post("q", &[json!("anew")]);
        assert_eq!(zaqar.receive(), heard(json!("anew"), 600));
        assert_eq!(other.ask("subscription_delete", one.clone()).0, 204);
        assert_eq!(other.ask("subscription_delete", one.clone()).0, 204);
        other.get(404, "subscription_get", one);
        other.post("q", &[json!("unheard")]);
        zaqar.get(201, "subscription_create", list.clone());
        other.post("q", &[json!("heard")]);
        assert_eq!(zaqar.receive(), heard(json!("heard"), 600));
        zaqar.socket.close(None).unwrap();
        while zaqar.socket.read().is_ok() {}
        eventually("the end of the subscription", || {
            (other.get(200, "subscription_list", list.clone())["subscriptions"] == json!([])).then_some(())
        });
        for subscriber in ["http://127.0.0.1/x", "mailto:a@b.example", "trust+https://x"] {
            other.get(501, "subscription_create", json!({"queue_name": "q", "subscriber": subscriber}));
        }
        other.get(400, "subscription_create", json!({"queue_name": "q", "subscriber": "ftp://x"}));
        other.get(400, "subscription_create", json!({"queue_name": "q", "ttl": 59}));
        let mut third = Zaqar::connect(server);
        third.get(201, "subscription_create", list.clone());
        other.get(204, "queue_purge", list.clone());
        assert_eq!(other.get(200, "subscription_list", list)["subscriptions"], json!([]));
        assert_eq!(other.bodies("q"), [] as [Value; 0]);
    });
}

#[test]
fn a_subscriber_that_does_not_read_holds_up_nobody_and_misses_nothing() {
    let server = memory(&["--cores", "0"]);
    let (mut slow, mut poster) = (Zaqar::connect(&server), Zaqar::connect(&server).of_client(OTHER));
    slow.get(201, "subscription_create", json!({"queue_name": "q"}));
    let before = server.resident_bytes();
    let body = "x".repeat(100_000);
    for number in 0..600 {
        poster.send(
            "message_post",
            json!({"queue_name": "q", "messages": [{"body": [number, body]}, {"body": number}]}),
        );
        if number % 32 == 31 {
            (0..32).for_each(|_| assert_eq!(poster.answer().0, 201));
        }
    }
    (0..600 % 32).for_each(|_| assert_eq!(poster.answer().0, 201));
    // 60 MB of messages are stored; the subscriber adds at most what a socket and a buffer hold.
    assert!(server.resident_bytes() < before + (110 << 20), "{}", server.resident_bytes());
    for number in 0..600 {
        assert_eq!(slow.receive()["body"][0], number);
        assert_eq!(slow.receive()["body"], number);
    }
}

#[test]
fn hostile_requests_harm_only_their_connection() {
    let server = memory(&["--cores", "0", "--zaqar-max-request-bytes", "65536"]);
    let mut zaqar = Zaqar::connect(&server);
    let echo = json!({"action": null, "body": {}, "headers": {}, "api": "v2"});
    for text in ["", "{", "nonsense", "\u{feff}{}", "[1]", "5", "{\"action\":NaN}", &"[".repeat(60_000)] {
        zaqar.socket.send(WsMessage::text(text)).unwrap();
        let answer = zaqar.receive();
        assert_eq!(
            (&answer["headers"]["status"], &answer["request"]),
            (&json!(400), &echo),
            "{text}: {answer}"
        );
    }
    for bytes in [&b""[..], b"\xc1", b"{}", &[0x81; 60_000], b"\x80\x80", b"\x81\x01\x02"] {
        zaqar.socket.send(WsMessage::binary(bytes.to_vec())).unwrap();
        let answer = zaqar.receive_packed();
        assert_eq!(member(member(&answer, "headers"), "status").as_u64(), Some(400), "{answer}");
    }
    for (action, body) in [
        (json!(["a"]), json!({})),
        (json!({"a": 1}), json!({})),
        (json!(null), json!({})),
        (json!("queue_get"), json!([])),
        (json!("queue_get"), json!({"queue_name": 5})),
        (json!("message_list"), json!({"queue_name": "q", "limit": "5"})),
        (json!("message_list"), json!({"queue_name": "q", "echo": 1})),
    ] {
        let headers = json!({"Client-ID": CLIENT, "X-Project-ID": "p"});
        let request = json!({"action": action, "body": body, "headers": headers});
        zaqar.socket.send(WsMessage::text(request.to_string())).unwrap();
        let answer = zaqar.receive();
        assert_eq!(answer["headers"]["status"], 400, "{answer}");
        assert_eq!(answer["request"]["action"], action);
    }
    for action in ["get_home_doc", "ping_node", "pool_list", "flavor_create"] {
        zaqar.get(501, action, json!({}));
    }
    for project in ["a/b", "é", &"a".repeat(129)] {
        Zaqar::connect(&server).of_project(project).get(400, "queue_list", json!({}));
    }
    // The empty project is the default one.
    Zaqar::connect(&server).of_project("").post("q", &[json!("to default")]);
    assert_eq!(Zaqar::connect(&server).of_project("default").bodies("q"), [json!("to default")]);
    // A request in many fragments is one request.
    let request = json!({
        "action": "message_post",
        "headers": {"Client-ID": CLIENT, "X-Project-ID": "p"},
        "body": {"queue_name": "pieces", "messages": [{"body": "x".repeat(40_000)}]},
    });
    let text = request.to_string().into_bytes();
    let pieces: Vec<&[u8]> = text.chunks(1_000).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(piece.to_vec(), OpCode::Data(opcode), index + 1 == pieces.len());
        zaqar.socket.send(WsMessage::Frame(frame)).unwrap();
    }
    assert_eq!(zaqar.answer().0, 201);
    let closed_with = |mut zaqar: Zaqar| loop {
        match zaqar.socket.read() {
            Ok(WsMessage::Close(frame)) => return frame.map(|frame| u16::from(frame.code)),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let mut large = Zaqar::connect(&server);
    large.socket.send(WsMessage::text(" ".repeat(65_537))).unwrap();
    assert_eq!(closed_with(large), Some(1009));
    let mut no_text = Zaqar::connect(&server);
    let frame = Frame::message(b"\"\xff\"".to_vec(), OpCode::Data(Data::Text), true);
    no_text.socket.send(WsMessage::Frame(frame)).unwrap();
    assert_eq!(closed_with(no_text), Some(1007));
    assert_eq!(zaqar.get(200, "queue_get", json!({"queue_name": "q"})), json!({}));
    others_are_served(&server);
}

#[test]
fn limits_of_queues_projects_and_creation_hold() {
    let server = memory(&["--cores", "0", "--auto-create", "false", "--project-messages-per-sec", "1000"]);
    let mut zaqar = Zaqar::connect(&server);
    let post =
        |queue: &str, count: usize| json!({"queue_name": queue, "messages": vec![json!({"body": 1}); count]});
    zaqar.get(404, "message_post", post("q", 1));
    zaqar.get(404, "subscription_create", json!({"queue_name": "q"}));
    let limited =
        json!({"queue_name": "q", "metadata": {"_max_messages": 5, "_max_messages_post_size": 200}});
    zaqar.get(201, "queue_create", limited);
    zaqar.get(201, "message_post", post("q", 3));
    let refused = zaqar.get(429, "message_post", post("q", 3));
    assert!(refused["exception"].as_str().unwrap().contains("_max_messages"), "{refused}");
    zaqar.get(400, "message_post", post("q", 20));
    zaqar.get(201, "message_post", post("q", 2));
    zaqar.get(200, "message_delete_many", json!({"queue_name": "q", "pop": 5}));
    zaqar.get(201, "message_post", post("q", 5));
    zaqar.get(201, "queue_create", json!({"queue_name": "r"}));
    // The rate of the project is for all of its connections.
    let over = (0..200).any(|_| zaqar.ask("message_post", post("r", 100)).0 == 429);
    assert!(over, "20,000 messages at 1,000 a second");
    Zaqar::connect(&server).of_project("other").get(201, "queue_create", json!({"queue_name": "r"}));
}

#[test]
fn draining_answers_what_has_begun() {
    let server = memory(&["--cores", "0"]);
    let mut zaqar = Zaqar::connect(&server);
    zaqar.get(201, "subscription_create", json!({"queue_name": "q"}));
    zaqar.send("message_post", json!({"queue_name": "other", "messages": [{"body": 1}]}));
    assert_eq!(zaqar.answer().0, 201);
    server.signal("TERM");
    let closed = loop {
        match zaqar.socket.read() {
            Ok(WsMessage::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(closed, Some(1001));
    drop(zaqar);
    let mut server = server;
    assert!(server.ended_within(Duration::from_secs(20)).success());
}

#[test]
fn v2_takes_any_path_below_it_and_selects_no_subprotocol() {
    let server = memory(&["--cores", "0"]);
    for path in ["/v2", "/v2/", "/v2/queues?x=y"] {
        let url = format!("ws://127.0.0.1:{}{path}", server.port);
        let (socket, response) = tungstenite::client(url, server.dial()).unwrap();
        assert!(response.headers().get("Sec-WebSocket-Protocol").is_none());
        let mut zaqar = Zaqar { socket, project: "p".to_owned(), client: CLIENT.to_owned() };
        zaqar.get(200, "queue_list", json!({}));
    }
    let mut streaming = Client::connect(&server);
    streaming.begin(&append("q"));
}
