//! The real binary at each of its limits: what a client sees there, and that a well-behaved one beside it sees nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{
    Client, Neighbour, Server, append, code, frame, get, handshake, producer, request, response, status,
};
use millstream::pb::{ProduceResponse, ProduceSetupResponse, Status};

const ACME: (&str, &str) = ("X-Project-Id", "acme");

/// The status with which a handshake is answered.
fn handshake_status(server: &Server, extra: &str) -> u16 {
    let mut stream = server.dial();
    stream.write_all(handshake("/", extra).as_bytes()).unwrap();
    status(&response(&mut stream))
}

fn setup(client: &mut Client, queue: &str) -> u32 {
    client.begin(&append(queue));
    code(&client.receive_as::<ProduceSetupResponse>().status)
}

/// Ends an operation that failed, so that the next may begin.
fn end(client: &mut Client) {
    client.finish();
    while client.receive().is_some() {}
}

#[test]
fn connections_are_limited_in_all() {
    let server = Server::start(&["--cores", "0", "--max-connections", "4"]);
    let neighbour = Neighbour::beside(&server);
    let held: Vec<Client> = (0..2).map(|_| Client::connect(&server)).collect();
    let mut refused = server.dial();
    let mut text = String::new();
    refused.read_to_string(&mut text).unwrap();
    assert_eq!(status(&text), 503);
    assert!(text.contains("max_connections") && text.contains("\r\nRetry-After: "), "{text}");
    drop(held);
    common::eventually("a free place", || (handshake_status(&server, "") == 101).then_some(()));
    neighbour.leave();
}

#[test]
fn connections_operations_and_queues_are_limited_for_each_project() {
    let server = Server::start(&[
        "--cores",
        "0-1",
        "--project-max-connections",
        "6",
        "--project-max-operations",
        "3",
        "--project-max-queues",
        "2",
    ]);
    let neighbour = Neighbour::beside(&server);
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect_with(&server, &[ACME])).collect();
    let mut stream = server.dial();
    stream.write_all(handshake("/", "X-Project-Id: acme\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(status(&text), 429, "{text}");
    assert!(text.contains("project_max_connections = 6") && text.contains("\r\nRetry-After: "), "{text}");
    // Operations: three are open, on two queues.
    for (number, client) in clients.iter_mut().take(3).enumerate() {
        assert_eq!(setup(client, if number == 0 { "one" } else { "two" }), 100);
    }
    clients[3].begin(&append("one"));
    let refused: ProduceSetupResponse = clients[3].receive_as();
    assert_eq!((code(&refused.status), refused.max_msgnum_to_send), (429, Some(0)));
    assert!(refused.status.unwrap().reason_phrase().contains("project_max_operations = 3"));
    end(&mut clients[3]);
    // One ends, so another may begin; but not on a third queue.
    clients[0].finish();
    assert_eq!(clients[0].receive(), None);
    clients[3].begin(&get("three", "", true));
    let refused: Status = clients[3].receive_as();
    assert_eq!(refused.status_code(), 429);
    assert!(refused.reason_phrase().contains("project_max_queues = 2"), "{refused:?}");
    end(&mut clients[3]);
    assert_eq!(setup(&mut clients[3], "one"), 100);
    // Who goes gives everything back.
    clients.truncate(2);
    common::eventually("a free place", || {
        (handshake_status(&server, "X-Project-Id: acme\r\n") == 101).then_some(())
    });
    assert_eq!(setup(&mut clients[0], "two"), 100);
    neighbour.leave();
    assert_eq!(server.stop(), 0);
}

/// Sends within its credit for a while, as fast as it may; how many messages were acknowledged in the time.
fn send_within_credit(client: &mut Client, payload: &[u8], lasting: Duration) -> u64 {
    let began = Instant::now();
    assert_eq!(setup(client, "paced"), 100);
    let (mut sent, mut acknowledged, mut granted) = (0, 0, 100);
    while began.elapsed() < lasting {
        while sent < granted {
            client.send(&request(Some(60), &[payload]));
            sent += 1;
        }
        let response: ProduceResponse = client.receive_as();
        if let Some(status) = &response.status {
            assert_eq!(
                status.status_code(),
                201,
                "{status:?} at {acknowledged} of {sent}, {granted} granted"
            );
            acknowledged = response.msgnum_status_is_thru();
        }
        granted = response.max_msgnum_to_send();
    }
    acknowledged as u64
}

#[test]
fn messages_a_second_are_paced_by_credit() {
    let server = Server::start(&["--cores", "0-1", "--project-messages-per-sec", "2000"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    let acknowledged = send_within_credit(&mut client, b"x", Duration::from_secs(3));
    // A burst of one second, then the rate; and never a refusal for whoever keeps to the credit.
    assert!((5_000..=8_100).contains(&acknowledged), "{acknowledged} in 3 s at 2,000 a second");
    neighbour.leave();
}

#[test]
fn who_sends_far_more_bytes_than_the_rate_is_refused_with_429() {
    let server = Server::start(&["--cores", "0", "--project-bytes-per-sec", "10KB"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    assert_eq!(setup(&mut client, "heavy"), 100);
    // Within the initial credit, whose bytes nobody could know.
    for _ in 0..10 {
        client.send(&request(Some(60), &[&[b'x'; 10_000]]));
    }
    let refusal = loop {
        let response: ProduceResponse = client.receive_as();
        if code(&response.status) != 201 {
            break response;
        }
    };
    let status = refusal.status.clone().unwrap();
    assert_eq!(status.status_code(), 429);
    assert!(status.reason_phrase().contains("project_bytes_per_sec = 10000"), "{status:?}");
    assert!(refusal.msgnum_status_is_thru() < 10);
    end(&mut client);
    // Larger than a second's bytes: let through alone, when nothing is owed.
    common::eventually("one more", || {
        if setup(&mut client, "heavy") != 100 {
            end(&mut client);
            return None;
        }
        client.send(&request(Some(60), &[&[b'x'; 15_000]]));
        let stored = code(&client.receive_as::<ProduceResponse>().status) == 201;
        end(&mut client);
        stored.then_some(())
    });
    neighbour.leave();
}

#[test]
fn queues_of_a_shard_and_times_to_live_are_limited() {
    let server = Server::start(&["--cores", "0", "--max-queues", "3", "--ttl-max", "100"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect(&server);
    for queue in ["one", "two"] {
        assert_eq!(setup(&mut client, queue), 100);
        end(&mut client);
    }
    assert_eq!(setup(&mut client, "three"), 503, "the neighbour has one, too");
    end(&mut client);
    assert_eq!(setup(&mut client, "one"), 100, "what is there is served");
    client.send(&request(Some(101), &[b"too long"]));
    client.send(&request(Some(100), &[b"not too long"]));
    let fates: Vec<u32> = (0..2).map(|_| code(&client.receive_as::<ProduceResponse>().status)).collect();
    assert_eq!(fates, [400, 201]);
    neighbour.leave();
}

#[test]
fn a_producer_that_is_idle_does_not_keep_the_rate_from_others() {
    let server = Server::start(&["--cores", "0-1", "--project-messages-per-sec", "2000"]);
    let mut idle: Vec<Client> = (0..5).map(|_| Client::connect_with(&server, &[ACME])).collect();
    for client in &mut idle {
        assert_eq!(setup(client, "idle"), 100);
        client.send(&request(Some(60), &[b"one"]));
        assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 201);
    }
    let mut client = Client::connect_with(&server, &[ACME]);
    let acknowledged = send_within_credit(&mut client, b"x", Duration::from_secs(3));
    assert!((5_000..=8_100).contains(&acknowledged), "{acknowledged} in 3 s at 2,000 a second");
    // Nor do they keep a shard awake: waiting for credit is sleeping.
    let before = server.cpu_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = server.cpu_time() - before;
    assert!(used < Duration::from_secs(1), "{used:?} of CPU time in 2 s of waiting");
}

#[test]
fn bytes_a_second_are_paced_by_credit() {
    let server = Server::start(&["--cores", "0-1", "--project-bytes-per-sec", "400KB"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    let acknowledged = send_within_credit(&mut client, &[b'x'; 1_000], Duration::from_secs(3));
    assert!((900..=1_700).contains(&acknowledged), "{acknowledged} of 1,000 bytes in 3 s at 400 KB a second");
    neighbour.leave();
}

#[test]
fn who_sends_past_the_rate_is_refused_with_429_and_stays_connected() {
    let server = Server::start(&["--cores", "0", "--project-messages-per-sec", "100"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    assert_eq!(setup(&mut client, "fast"), 100);
    client.send(&request(Some(60), &[&b"x"[..]; 100]));
    let mut stored = 0;
    // The initial credit of new operations is more than the rate, so one of them goes past it.
    let refusal = loop {
        let response: ProduceResponse = client.receive_as();
        let Some(status) = &response.status else { continue };
        if status.status_code() == 429 {
            break response;
        }
        assert_eq!(status.status_code(), 201);
        stored += 1;
        end(&mut client);
        client.begin(&append("fast"));
        let setup: ProduceSetupResponse = client.receive_as();
        if code(&setup.status) == 429 {
            assert!(setup.status.unwrap().reason_phrase().contains("project_messages_per_sec = 100"));
            break ProduceResponse::default();
        }
        client.send(&request(Some(60), &[&b"x"[..]; 100]));
        assert!(stored < 10, "the rate is never felt");
    };
    if let Some(status) = &refusal.status {
        assert_eq!(refusal.msgnum_status_is_thru(), 100, "none of the request is stored");
        assert!(status.reason_phrase().contains("try again later"), "{status:?}");
    }
    end(&mut client);
    // On the same connection, once the rate allows it again.
    common::eventually("another operation", || {
        let accepted = setup(&mut client, "fast") == 100;
        if !accepted {
            end(&mut client);
        }
        accepted.then_some(())
    });
    neighbour.leave();
}

#[test]
fn handshakes_are_limited_in_time_and_size() {
    let server =
        Server::start(&["--cores", "0", "--handshake-timeout", "500ms", "--handshake-max-bytes", "1KiB"]);
    let neighbour = Neighbour::beside(&server);
    let mut slow = server.dial();
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(status(&response(&mut slow)), 408);
    let mut long = server.dial();
    long.write_all(handshake("/", &format!("X-Long: {}\r\n", "x".repeat(1_100))).as_bytes()).unwrap();
    assert_eq!(status(&response(&mut long)), 431);
    neighbour.leave();
}

#[test]
fn a_pb_is_limited_in_time_and_what_is_discarded_in_size() {
    let server = Server::start(&["--cores", "0", "--pb-timeout", "300ms", "--discard-limit-bytes", "100KB"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = producer(&server, "slow");
    client.send_raw(&[100, 8]);
    let failure: ProduceResponse = client.receive_as();
    assert_eq!(code(&failure.status), 408);
    assert_eq!(client.receive(), None);
    client.send_raw(&[0; 60_000]);
    client.finish();
    assert_eq!(setup(&mut client, "slow"), 100, "as long as that is little");
    client.send_raw(&[100, 8]);
    assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 408);
    assert_eq!(client.receive(), None);
    client.send_raw(&[0; 60_000]);
    client.send_raw(&[0; 60_000]);
    assert_eq!(client.close_code(), 1008);
    neighbour.leave();
}

#[test]
fn silence_is_answered_with_a_ping_and_then_with_1001() {
    let server = Server::start(&["--cores", "0", "--ping-interval", "200ms", "--idle-timeout", "600ms"]);
    let neighbour = Neighbour::beside(&server);
    let mut silent = Client::connect(&server);
    let (_, opcode, _) = silent.read_frame();
    assert_eq!(opcode, 9, "a ping");
    assert_eq!(silent.close_code(), 1001);
    let mut answers = Client::connect(&server);
    for _ in 0..5 {
        let (_, opcode, payload) = answers.read_frame();
        assert_eq!(opcode, 9);
        std::io::Write::write_all(answers.0.get_mut(), &frame(0x8a, &payload)).unwrap();
    }
    assert_eq!(setup(&mut answers, "alive"), 100);
    neighbour.leave();
}
