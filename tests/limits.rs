//! Tests the real binary at each of its limits: what the client sees, and that a well-behaved client is not
//! affected.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Client, Neighbour, Server, append, code, frame, get, handshake, producer, request, response, status,
};
use millstream::pb::{ProduceResponse, ProduceSetupResponse, Status};
use place::Place;

const ACME: (&str, &str) = ("X-Project-Id", "acme");

/// Returns the status of a handshake's response.
fn handshake_status(server: &Server, extra: &str) -> u16 {
    let mut stream = server.dial();
    stream.write_all(handshake("/", extra).as_bytes()).unwrap();
    status(&response(&mut stream))
}

fn setup(client: &mut Client, queue: &str) -> u32 {
    client.begin(&append(queue));
    code(&client.receive_as::<ProduceSetupResponse>().status)
}

/// Ends a failed operation, so that the next may begin.
fn end(client: &mut Client) {
    client.finish();
    while client.receive().is_some() {}
}

/// Starts a server with small files in this data directory.
fn serve(data: &Place, more: &[&str]) -> Server {
    let base =
        ["--store", "log", "--data-dir", data.text(), "--partitions", "2", "--log-segment-bytes", "16MiB"];
    Server::start(&[&base[..], more].concat())
}

fn delete_queue(server: &Server, project: &str, queue: &str) {
    let control = format!("http://127.0.0.1:{}", server.control);
    let arguments = ["queue", "delete", queue, "--project", project, "--control", &control];
    assert!(Command::new(common::BINARY).args(arguments).status().unwrap().success());
}

/// Begins a produce operation. Returns the status and the reason.
fn try_setup(client: &mut Client, queue: &str) -> (u32, String) {
    client.begin(&append(queue));
    let answer: ProduceSetupResponse = client.receive_as();
    end(client);
    let status = answer.status.unwrap();
    (status.status_code(), status.reason_phrase().to_owned())
}

/// Sends a request within an operation. Returns the status of its messages, the reason, and the number of the
/// last of them.
fn fate(client: &mut Client, ttl: u32, payloads: &[&[u8]]) -> (u32, String, i64) {
    client.send(&request(Some(ttl), payloads));
    loop {
        let response: ProduceResponse = client.receive_as();
        if let Some(status) = &response.status {
            let reason = status.reason_phrase().to_owned();
            return (status.status_code(), reason, response.msgnum_status_is_thru());
        }
    }
}

#[test]
fn all_connections_are_limited() {
    let server = Server::start(&["--cores", "0", "--max-connections", "4"]);
    let neighbour = Neighbour::beside(&server);
    let held: Vec<Client> = (0..2).map(|_| Client::connect(&server)).collect();
    for says_something in [false, true] {
        let mut refused = server.dial();
        if says_something {
            refused.write_all(handshake("/", "").as_bytes()).unwrap();
        }
        let mut text = String::new();
        refused.read_to_string(&mut text).unwrap();
        assert_eq!(status(&text), 503);
        assert!(text.contains("max_connections = 4") && text.contains("\r\nRetry-After: "), "{text}");
        assert!(!text.contains("open files"), "{text}");
    }
    assert_eq!(server.metric("millstream_handshakes_refused_total{shard=\"0\",status=\"503\"}"), 2);
    let lines = server.log();
    assert!(!lines.iter().any(|line| line.contains("open files")), "{lines:?}");
    drop(held);
    common::eventually("a connection is free", || (handshake_status(&server, "") == 101).then_some(()));
    neighbour.leave();
}

#[test]
fn connections_operations_and_queues_are_limited_per_project() {
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
    // The limit on operations: three are open, on two queues.
    for (number, client) in clients.iter_mut().take(3).enumerate() {
        assert_eq!(setup(client, if number == 0 { "one" } else { "two" }), 100);
    }
    clients[3].begin(&append("one"));
    let refused: ProduceSetupResponse = clients[3].receive_as();
    assert_eq!((code(&refused.status), refused.max_msgnum_to_send), (429, Some(0)));
    assert!(refused.status.unwrap().reason_phrase().contains("project_max_operations = 3"));
    end(&mut clients[3]);
    // When one ends, another may begin, but not on a third queue.
    clients[0].finish();
    assert_eq!(clients[0].receive(), None);
    clients[3].begin(&get("three", "", true));
    let refused: Status = clients[3].receive_as();
    assert_eq!(refused.status_code(), 429);
    assert!(refused.reason_phrase().contains("project_max_queues = 2"), "{refused:?}");
    end(&mut clients[3]);
    assert_eq!(setup(&mut clients[3], "one"), 100);
    // A closed connection frees its operations and queues, too.
    clients.truncate(2);
    common::eventually("a connection is free", || {
        (handshake_status(&server, "X-Project-Id: acme\r\n") == 101).then_some(())
    });
    assert_eq!(setup(&mut clients[0], "two"), 100);
    neighbour.leave();
    assert_eq!(server.stop(), 0);
}

/// Sends as fast as its credit allows for a while. Returns the number of acknowledged messages.
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
fn messages_per_second_are_paced_by_credit() {
    let server = Server::start(&["--cores", "0-1", "--project-messages-per-sec", "2000"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    let acknowledged = send_within_credit(&mut client, b"x", Duration::from_secs(3));
    // A burst of one second, then the rate. The server never refuses messages within the credit.
    assert!((5_000..=8_100).contains(&acknowledged), "{acknowledged} in 3 s at 2,000 per second");
    neighbour.leave();
}

#[test]
fn far_more_bytes_than_the_rate_are_refused_with_429() {
    let server = Server::start(&["--cores", "0", "--project-bytes-per-sec", "10KB"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    assert_eq!(setup(&mut client, "heavy"), 100);
    // The initial credit allows these messages: it counts messages, not bytes.
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
    // A message larger than a second's bytes is accepted by itself, when no debt is left.
    common::eventually("a large message is accepted", || {
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
fn queues_per_shard_and_ttls_are_limited() {
    let server = Server::start(&["--cores", "0", "--max-queues", "3", "--ttl-max", "100"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect(&server);
    for queue in ["one", "two"] {
        assert_eq!(setup(&mut client, queue), 100);
        end(&mut client);
    }
    assert_eq!(setup(&mut client, "three"), 503, "the neighbour's queue counts, too");
    end(&mut client);
    assert_eq!(setup(&mut client, "one"), 100, "an existing queue must be served");
    client.send(&request(Some(101), &[b"too long"]));
    client.send(&request(Some(100), &[b"not too long"]));
    let fates: Vec<u32> = (0..2).map(|_| code(&client.receive_as::<ProduceResponse>().status)).collect();
    assert_eq!(fates, [400, 201]);
    neighbour.leave();
}

#[test]
fn idle_producers_do_not_take_the_rate_from_others() {
    let server = Server::start(&["--cores", "0-1", "--project-messages-per-sec", "2000"]);
    let mut idle: Vec<Client> = (0..5).map(|_| Client::connect_with(&server, &[ACME])).collect();
    for client in &mut idle {
        assert_eq!(setup(client, "idle"), 100);
        client.send(&request(Some(60), &[b"one"]));
        assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 201);
    }
    let mut client = Client::connect_with(&server, &[ACME]);
    let acknowledged = send_within_credit(&mut client, b"x", Duration::from_secs(3));
    assert!((5_000..=8_100).contains(&acknowledged), "{acknowledged} in 3 s at 2,000 per second");
    // Idle producers must not keep a shard awake: waiting for credit uses no CPU time.
    let before = server.cpu_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = server.cpu_time() - before;
    assert!(used < Duration::from_secs(1), "{used:?} of CPU time in 2 s of waiting");
}

#[test]
fn bytes_per_second_are_paced_by_credit() {
    let server = Server::start(&["--cores", "0-1", "--project-bytes-per-sec", "400KB"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    let acknowledged = send_within_credit(&mut client, &[b'x'; 1_000], Duration::from_secs(3));
    assert!(
        (900..=1_700).contains(&acknowledged),
        "{acknowledged} of 1,000 bytes in 3 s at 400 KB per second"
    );
    neighbour.leave();
}

#[test]
fn messages_beyond_the_rate_are_refused_with_429_and_the_connection_stays() {
    let server = Server::start(&["--cores", "0", "--project-messages-per-sec", "100"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = Client::connect_with(&server, &[ACME]);
    assert_eq!(setup(&mut client, "fast"), 100);
    client.send(&request(Some(60), &[&b"x"[..]; 100]));
    let mut stored = 0;
    // The initial credits of new operations exceed the rate, so one of them must be refused.
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
        assert!(stored < 10, "the rate must be enforced");
    };
    if let Some(status) = &refusal.status {
        assert_eq!(refusal.msgnum_status_is_thru(), 100, "the whole request must be refused");
        assert!(status.reason_phrase().contains("try again later"), "{status:?}");
    }
    end(&mut client);
    // The same connection works again when the rate allows it.
    common::eventually("another operation is accepted", || {
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
fn a_pbs_time_and_the_discarded_bytes_are_limited() {
    let server = Server::start(&["--cores", "0", "--pb-timeout", "300ms", "--discard-limit-bytes", "100KB"]);
    let neighbour = Neighbour::beside(&server);
    let mut client = producer(&server, "slow");
    client.send_raw(&[100, 8]);
    let failure: ProduceResponse = client.receive_as();
    assert_eq!(code(&failure.status), 408);
    assert_eq!(client.receive(), None);
    client.send_raw(&[0; 60_000]);
    client.finish();
    assert_eq!(setup(&mut client, "slow"), 100, "a little discarded input must be tolerated");
    client.send_raw(&[100, 8]);
    assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 408);
    assert_eq!(client.receive(), None);
    client.send_raw(&[0; 60_000]);
    client.send_raw(&[0; 60_000]);
    assert_eq!(client.close_code(), 1008);
    neighbour.leave();
}

#[test]
fn a_silent_client_is_pinged_and_then_closed_with_1001() {
    let server = Server::start(&["--cores", "0", "--ping-interval", "200ms", "--idle-timeout", "600ms"]);
    let neighbour = Neighbour::beside(&server);
    let mut silent = Client::connect(&server);
    let (_, opcode, _) = silent.read_frame();
    assert_eq!(opcode, 9, "the server must ping");
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

#[test]
fn queues_of_an_earlier_run_count_and_are_not_refused() {
    let data = Place::new("queues-count");
    let server = serve(&data, &["--cores", "0-1"]);
    let mut client = Client::connect_with(&server, &[ACME]);
    for queue in ["one", "two", "three"] {
        assert_eq!(try_setup(&mut client, queue).0, 100);
    }
    assert_eq!(server.stop(), 0);
    // One shard instead of two, so that some queues have another home shard.
    let server = serve(&data, &["--cores", "0", "--project-max-queues", "3"]);
    let mut client = Client::connect_with(&server, &[ACME]);
    let (status, why) = try_setup(&mut client, "four");
    assert!(status == 429 && why.contains("project_max_queues = 3"), "{status} {why}");
    for queue in ["three", "two", "one"] {
        assert_eq!(try_setup(&mut client, queue).0, 100, "{queue}");
    }
    let mut other = Client::connect_with(&server, &[("X-Project-Id", "other")]);
    assert_eq!(try_setup(&mut other, "four").0, 100, "another project has its own limit");
    // Deleting a queue that was not opened in this run also frees its place.
    assert_eq!(server.stop(), 0);
    let server = serve(&data, &["--cores", "0-1", "--project-max-queues", "3"]);
    let mut client = Client::connect_with(&server, &[ACME]);
    assert_eq!(try_setup(&mut client, "four").0, 429);
    delete_queue(&server, "acme", "one");
    common::eventually("a queue is free", || (try_setup(&mut client, "four").0 == 100).then_some(()));
    assert_eq!(try_setup(&mut client, "five").0, 429);
    delete_queue(&server, "acme", "four");
    common::eventually("the queue is free again", || (try_setup(&mut client, "five").0 == 100).then_some(()));
    assert_eq!(try_setup(&mut client, "six").0, 429);
    assert_eq!(server.stop(), 0);
    // The limit is below the number of existing queues.
    let server = serve(&data, &["--cores", "0", "--project-max-queues", "1", "--auto-create", "false"]);
    let mut client = Client::connect_with(&server, &[ACME]);
    for (queue, status) in [("two", 100), ("three", 100), ("five", 100), ("six", 404)] {
        assert_eq!(try_setup(&mut client, queue).0, status, "{queue}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn queues_per_shard_count_across_runs() {
    let data = Place::new("max-queues");
    let server = serve(&data, &["--cores", "0", "--max-queues", "2"]);
    let mut client = Client::connect(&server);
    for (queue, status) in [("one", 100), ("two", 100), ("three", 503), ("one", 100)] {
        assert_eq!(try_setup(&mut client, queue).0, status, "{queue}");
    }
    assert_eq!(server.stop(), 0);
    let server = serve(&data, &["--cores", "0", "--max-queues", "1"]);
    let mut client = Client::connect(&server);
    let (status, why) = try_setup(&mut client, "three");
    assert!(status == 503 && why.contains("max_queues"), "{status} {why}");
    for queue in ["one", "two"] {
        assert_eq!(try_setup(&mut client, queue).0, 100, "{queue}");
    }
    delete_queue(&server, "default", "one");
    delete_queue(&server, "default", "two");
    common::eventually("a queue is free", || (try_setup(&mut client, "three").0 == 100).then_some(()));
    assert_eq!(server.stop(), 0);
}

/// Fills a project up to its limit of 1 MiB, which ends the operation. Returns the number of the last stored
/// message.
fn fill(client: &mut Client, queue: &str, ttl: u32, least: i64) -> i64 {
    assert_eq!(setup(client, queue), 100);
    let payload = [7u8; 50_000];
    let mut stored = 0;
    loop {
        let (status, why, thru) = fate(client, ttl, &[&payload[..], &payload[..]]);
        if status == 201 {
            stored = thru;
            assert!(stored <= 20 || ttl < 60, "no more than 1 MiB may be stored");
            continue;
        }
        assert_eq!(
            (status, thru),
            (429, stored + 2),
            "both messages of the request must be refused by number"
        );
        assert!(why.contains("project_storage_bytes = 1048576"), "{why}");
        assert!(stored >= least, "{stored} messages fit");
        return stored;
    }
}

/// Stores a message of another project.
fn store_beside(server: &Server) {
    let mut other = Client::connect_with(server, &[("X-Project-Id", "other")]);
    assert_eq!(setup(&mut other, "beside"), 100);
    assert_eq!(fate(&mut other, 3_600, &[&[7; 10_000]]).0, 201);
}

/// Waits until the project can store a message again.
fn await_room(client: &mut Client, queue: &str) {
    common::eventually("the project has room", || {
        assert_eq!(setup(client, queue), 100);
        let stored = fate(client, 3_600, &[&[7; 50_000]]).0 == 201;
        end(client);
        stored.then_some(())
    });
}

#[test]
fn a_projects_storage_in_the_log_is_limited_across_runs() {
    let data = Place::new("storage");
    let limits = ["--project-storage-bytes", "1MiB", "--ttl-min", "1"];
    let server = serve(&data, &[&limits[..], &["--cores", "0-1"]].concat());
    let mut client = Client::connect_with(&server, &[ACME]);
    fill(&mut client, "one", 3_600, 10);
    end(&mut client);
    store_beside(&server);
    assert_eq!(server.stop(), 0);
    let server = serve(&data, &[&limits[..], &["--cores", "0"]].concat());
    let mut client = Client::connect_with(&server, &[ACME]);
    assert_eq!(setup(&mut client, "two"), 100);
    assert_eq!(fate(&mut client, 3_600, &[&[7; 100_000]]).0, 429, "messages of an earlier run must count");
    end(&mut client);
    // This run has not opened the queue.
    delete_queue(&server, "acme", "one");
    await_room(&mut client, "two");
    delete_queue(&server, "acme", "two");
    common::eventually("the project is empty", || {
        let (status, queues) = server.control("/queues");
        (status == 200 && !queues.contains("acme")).then_some(())
    });
    // Expired messages free their room.
    let mut client = Client::connect_with(&server, &[ACME]);
    common::eventually("the room of the queue is free", || {
        assert_eq!(setup(&mut client, "three"), 100);
        let stored = fate(&mut client, 1, &[&[7; 600_000][..], &[7; 420_000][..]]).0 == 201;
        end(&mut client);
        stored.then_some(())
    });
    await_room(&mut client, "four");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_projects_storage_in_memory_is_limited() {
    let server = Server::start(&["--cores", "0-1", "--project-storage-bytes", "1MiB", "--ttl-min", "1"]);
    server.wait_for_log("memory_bytes = 1073741824");
    let mut client = Client::connect_with(&server, &[ACME]);
    fill(&mut client, "one", 5, 10);
    end(&mut client);
    // The messages have expired.
    await_room(&mut client, "one");
    // Another connection fills another queue.
    let mut client = Client::connect_with(&server, &[ACME]);
    // Messages that have not expired may still take most of the room.
    fill(&mut client, "two", 3_600, 0);
    end(&mut client);
    assert_eq!(setup(&mut client, "one"), 100);
    assert_eq!(fate(&mut client, 3_600, &[&[7; 100_000]]).0, 429);
    store_beside(&server);
}
