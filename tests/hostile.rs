//! Tests the real binary against hostile clients. A well-behaved client next to each attack must not notice
//! it, and the server's memory must stay below the bound that `--check-config` prints. Nothing may panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/random.rs"]
mod random;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{
    Client, Neighbour, Server, append, code, eventually, frame, get, handshake, others_are_served, producer,
    raise_open_files, request, response, status, varint,
};
use millstream::pb::{ConsumeResponse, ProduceResponse, ProduceSetupResponse, Status};
use prost::Message;
use random::Random;

/// Settings that are small enough for a meaningful memory bound.
const SMALL: [&str; 10] = [
    "--cores",
    "0-1",
    "--memory-bytes",
    "64MiB",
    "--shard-budget-bytes",
    "64MiB",
    "--max-connections",
    "8000",
    "--max-queues",
    "1000",
];

fn server(more: &[&str]) -> Server {
    raise_open_files();
    Server::start(&[&SMALL[..], more].concat())
}

/// Checks the conditions that must hold after every attack.
fn is_sound(server: &Server, neighbour: Neighbour) {
    // Even a short attack must not end before the neighbour has been served a few times.
    neighbour.await_served(6);
    neighbour.leave();
    others_are_served(server);
    assert_eq!(server.metric("millstream_connection_panics_total"), 0);
    assert!(!server.log().iter().any(|line| line.contains("panic")), "{:?}", server.log());
    let (peak, bound) = (server.peak_bytes(), server.memory_at_worst());
    println!("peak {} MiB, bound {} MiB", peak >> 20, bound >> 20);
    assert!(peak < bound, "{peak} bytes are above the {bound} of --check-config");
}

/// Reads everything that the server still sends. Returns `None` if the server reset the connection.
fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

/// Opens a connection and completes its handshake.
fn open(server: &Server) -> TcpStream {
    let mut stream = server.dial();
    stream.write_all(handshake("/", "").as_bytes()).unwrap();
    assert_eq!(status(&response(&mut stream)), 101);
    stream
}

/// Closes the connection with RST, so that no port stays in TIME_WAIT.
fn vanish(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn slow_and_endless_handshakes() {
    let server = server(&["--handshake-timeout", "3s"]);
    let neighbour = Neighbour::beside(&server);
    // A thousand clients send their handshake slowly, and a thousand never end a header.
    let mut slow: Vec<TcpStream> = (0..1000).map(|_| server.dial()).collect();
    let mut endless: Vec<TcpStream> = (0..1000).map(|_| server.dial()).collect();
    endless.iter_mut().for_each(|stream| stream.write_all(b"GET / HTTP/1.1\r\nX-Long: ").unwrap());
    let text = handshake("/", "");
    for round in 0..20 {
        for stream in &mut slow {
            // The server may have refused this client already.
            let _ = stream.write_all(&text.as_bytes()[round..=round]);
        }
        for stream in &mut endless {
            let _ = stream.write_all(&[b'x'; 1024]);
        }
    }
    for (streams, refusal) in [(slow, "408"), (endless, "431")] {
        let mut refused = 0;
        for mut stream in streams {
            if let Some(bytes) = rest(&mut stream) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(text.starts_with(&format!("HTTP/1.1 {refusal}")), "{text}");
                refused += 1;
            }
        }
        assert!(refused > 0, "some client must have read the reason");
    }
    is_sound(&server, neighbour);
}

#[test]
fn five_thousand_announce_a_large_pb_and_send_one_byte() {
    let server = server(&[]);
    let neighbour = Neighbour::beside(&server);
    let announcement = frame(0x02, &[varint(8 << 20), vec![8]].concat());
    let mut streams = Vec::new();
    for _ in 0..5_000 {
        let mut stream = server.dial();
        stream.write_all(handshake("/", "").as_bytes()).unwrap();
        stream.write_all(&announcement).unwrap();
        streams.push(stream);
    }
    eventually("all are connected", || (server.metric("millstream_connections{") >= 5_002).then_some(()));
    // Other clients send large pbs at the same time, whole and in parts.
    let mut client = producer(&server, "large");
    let payload = vec![b'x'; 900_000];
    for number in 1..=20 {
        client.send(&request(Some(60), &[&payload]));
        let answer: ProduceResponse = client.receive_as();
        assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, number));
    }
    assert_eq!(
        server.metric("millstream_budget_reserved_bytes"),
        0,
        "an announced length must not reserve memory"
    );
    streams.into_iter().for_each(vanish);
    eventually("their memory is released", || {
        (server.metric("millstream_budget_reserved_bytes") == 0).then_some(())
    });
    is_sound(&server, neighbour);
}

#[test]
fn slow_senders_of_large_pbs_do_not_delay_small_ones() {
    let server = server(&["--pb-timeout", "5s"]);
    let neighbour = Neighbour::beside(&server);
    let beginning = frame(0x02, &[varint(8 << 20), vec![0; 100_000]].concat());
    let mut streams: Vec<TcpStream> = (0..200).map(|_| open(&server)).collect();
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        // The server does not read from clients that wait for memory, so the rest of the write is dropped.
        let _ = stream.write(&beginning);
    }
    eventually("the server holds their bytes", || {
        (server.metric("millstream_budget_reserved_bytes") > 200 * 100_000).then_some(())
    });
    let mut client = producer(&server, "small");
    for number in 1..=50 {
        client.send(&request(Some(60), &[&[b'x'; 10_000][..]; 4]));
        let answer: ProduceResponse = client.receive_as();
        assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, 4 * number));
    }
    // Large pbs are served, too: bytes that were announced but not sent block no other client.
    let payload = vec![b'x'; 900_000];
    for number in 1..=10 {
        client.send(&request(Some(60), &[&payload]));
        let answer: ProduceResponse = client.receive_as();
        assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, 200 + number));
    }
    // The server answers all slow clients with 408.
    eventually("no client waits for memory", || {
        (server.metric("millstream_budget_waiting_connections") == 0
            && server.metric("millstream_budget_reserved_bytes") == 0)
            .then_some(())
    });
    drop(streams);
    is_sound(&server, neighbour);
}

#[test]
fn absurd_lengths() {
    let server = server(&[]);
    let neighbour = Neighbour::beside(&server);
    let setup = append("lengths").encode_length_delimited_to_vec();
    for _ in 0..200 {
        // A pb length of 2^63, as a varint.
        let mut client = producer(&server, "lengths");
        client.send_raw(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
        assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 400);
        // A pb length that fits in five bytes.
        let mut client = producer(&server, "lengths");
        client.send_raw(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(code(&client.receive_as::<ProduceResponse>().status), 413);
        // Frame lengths of 2^63 and of the largest valid value. The server reads the latter as it arrives.
        let mut stream = open(&server);
        stream.write_all(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let closed = rest(&mut stream).unwrap();
        assert_eq!(closed[..4], [0x88, 2, 0x03, 0xea], "Close 1002");
        let mut stream = open(&server);
        stream.write_all(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).unwrap();
        stream.write_all(&setup).unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 0x02, "the operation must begin inside the endless frame");
    }
    is_sound(&server, neighbour);
}

/// Fills a queue with messages of `bytes` bytes each.
fn fill(server: &Server, queue: &str, messages: usize, bytes: usize) {
    let size = bytes.to_string();
    let count = messages.to_string();
    let status =
        server.run(&["produce", queue, "--count", &count, "--size", &size]).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
}

#[test]
fn consumers_that_read_one_byte_per_second() {
    // A budget so small that the consumers fill it.
    let server = server(&["--shard-budget-bytes", "16MiB", "--max-pb-bytes", "2MiB"]);
    fill(&server, "backlog", 200, 200_000);
    let neighbour = Neighbour::beside(&server);
    let credit = millstream::pb::ConsumeRequest { max_msgnum_to_send: Some(1 << 40), ..Default::default() };
    let mut consumers = Vec::new();
    for _ in 0..300 {
        let mut stream = open(&server);
        // A receive window so small that the server holds nearly everything.
        socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        let setup = get("backlog", "", true).encode_length_delimited_to_vec();
        stream.write_all(&frame(0x02, &setup)).unwrap();
        stream.write_all(&frame(0x00, &credit.encode_length_delimited_to_vec())).unwrap();
        consumers.push(stream);
    }
    for _ in 0..5 {
        for stream in &mut consumers {
            let mut byte = [0];
            // The server closes the connection if memory is short.
            let _ = stream.read(&mut byte);
        }
        // One byte per second is the attack.
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut client = Client::connect(&server);
    client.begin(&get("backlog", "", true));
    assert_eq!(client.receive_as::<Status>().status_code(), 100);
    let mut came = 0;
    while came < 100 {
        came += client.receive_as::<ConsumeResponse>().messages.len();
    }
    println!("held {} MiB", server.metric("millstream_budget_held_bytes") >> 20);
    assert!(server.metric("millstream_connections_evicted_total") > 0, "some consumers must be evicted");
    server.wait_for_log("memory is short: closing a client that reads nothing");
    consumers.into_iter().for_each(vanish);
    eventually("their memory is released", || {
        (server.metric("millstream_budget_held_bytes") == 0).then_some(())
    });
    is_sound(&server, neighbour);
}

#[test]
fn ten_thousand_vanish_during_an_operation() {
    let server = server(&[]);
    let neighbour = Neighbour::beside(&server);
    let produce = frame(0x02, &append("vanish").encode_length_delimited_to_vec());
    let consume = frame(0x02, &get("vanish", "", true).encode_length_delimited_to_vec());
    let message = frame(0x00, &request(Some(60), &[b"some payload"]).encode_length_delimited_to_vec());
    let vanish_once = |number: usize| {
        let mut stream = server.dial();
        stream.write_all(handshake("/", "").as_bytes()).unwrap();
        match number % 4 {
            0 => stream.write_all(&produce).unwrap(),
            1 => {
                stream.write_all(&produce).unwrap();
                stream.write_all(&message).unwrap();
                stream.write_all(&message[..message.len() - 5]).unwrap();
            }
            2 => stream.write_all(&consume).unwrap(),
            _ => stream.write_all(&produce[..7]).unwrap(),
        }
        if number % 8 < 4 { vanish(stream) } else { drop(stream) }
    };
    (0..500).for_each(vanish_once);
    let settled = || server.metric("millstream_connections{") == 2;
    eventually("the first connections are closed", || settled().then_some(()));
    let (files, resident) = (server.open_files(), server.resident_bytes());
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || (0..2_500).for_each(|number| vanish_once(part + 4 * number)));
        }
    });
    eventually("all connections are closed", || settled().then_some(()));
    eventually("their memory is released", || {
        (server.metric("millstream_budget_reserved_bytes") == 0).then_some(())
    });
    assert_eq!(server.metric("millstream_budget_held_bytes"), 0);
    eventually("their files are closed", || (server.open_files() <= files).then_some(()));
    let now = server.resident_bytes();
    println!("resident {} MiB before, {} MiB after", resident >> 20, now >> 20);
    assert!(now < resident + (32 << 20), "{resident} bytes before, {now} after");
    is_sound(&server, neighbour);
}

#[test]
fn a_flood_of_pings() {
    // All run on one shard: a connection that always has input must not keep the shard from other sockets.
    let server = server(&["--cores", "0"]);
    let neighbour = Neighbour::beside(&server);
    let ping = frame(0x89, &[b'p'; 125]).repeat(500);
    std::thread::scope(|scope| {
        for reads in [true, true, false, false] {
            let (ping, server) = (&ping, &server);
            scope.spawn(move || {
                let mut stream = open(server);
                let until = Instant::now() + Duration::from_secs(5);
                stream.set_nonblocking(true).unwrap();
                let (mut at, mut pongs) = (0, 0);
                let mut buffer = vec![0; 64 << 10];
                while Instant::now() < until {
                    match stream.write(&ping[at..]) {
                        Ok(bytes) => at = (at + bytes) % ping.len(),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                    }
                    if reads {
                        match stream.read(&mut buffer) {
                            Ok(bytes) => pongs += bytes,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                        }
                    }
                }
                assert_eq!(reads, pongs > 0);
            });
        }
    });
    is_sound(&server, neighbour);
}

#[test]
fn a_thousand_ping_and_never_read() {
    let server = server(&[]);
    let neighbour = Neighbour::beside(&server);
    let pings = frame(0x89, &[b'p'; 125]).repeat(4_000);
    let mut streams: Vec<TcpStream> = (0..1_000).map(|_| open(&server)).collect();
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        // A small receive window, so that the server holds the unread bytes.
        socket2::SockRef::from(&*stream).set_recv_buffer_size(4096).unwrap();
    }
    // Enough bytes to exhaust the kernel's memory for TCP (tcp_mem), so that the server holds the rest. The
    // neighbour may then wait for TCP retransmissions, because both ends of all sockets are on this host.
    for _ in 0..5 {
        for stream in &mut streams {
            // The socket may be full, or the server may have closed it because memory was short.
            let _ = stream.write(&pings);
        }
    }
    println!("held {} MiB", server.metric("millstream_budget_held_bytes") >> 20);
    streams.into_iter().for_each(vanish);
    eventually("their memory is released", || {
        (server.metric("millstream_budget_held_bytes") == 0).then_some(())
    });
    is_sound(&server, neighbour);
}

#[test]
fn accepting_resumes_after_descriptors_run_out() {
    let server = Server::start_with_files(160, &SMALL);
    let neighbour = Neighbour::beside(&server);
    let held: Vec<TcpStream> = (0..250).map(|_| server.dial()).collect();
    server.wait_for_log("refusing connections with 503: the limit of open files leaves no room for more");
    drop(held);
    eventually("a new connection is accepted", || {
        let mut stream = server.dial();
        stream.write_all(handshake("/", "").as_bytes()).ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).ok()?;
        (&head == b"HTTP/1.1 101").then_some(())
    });
    is_sound(&server, neighbour);
}

#[test]
fn stopped_clients() {
    let server = server(&["--ping-interval", "1s", "--idle-timeout", "4s"]);
    fill(&server, "stopped", 10_000, 1_000);
    let neighbour = Neighbour::beside(&server);
    let mut stopped = Vec::new();
    for number in 0..20 {
        let arguments: &[&str] = if number % 2 == 0 {
            &["consume", "stopped"]
        } else {
            &["produce", "stopped", "--count", "100000000", "--size", "100"]
        };
        let child = server.run(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        stopped.push(child);
    }
    eventually("all operations have begun", || (server.metric("millstream_operations{") >= 22).then_some(()));
    for child in &stopped {
        let killed = Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }
    // The server closes them because they are silent.
    eventually("they are closed", || (server.metric("millstream_connections{") == 2).then_some(()));
    for mut child in stopped {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    is_sound(&server, neighbour);
}

/// Returns the bytes of valid traffic with random changes.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = handshake("/", "").into_bytes();
    let operations = random.between(1, 3);
    for _ in 0..operations {
        let setup = if random.one_in(2) { append("mutants") } else { get("mutants", "", true) };
        bytes.extend(frame(0x02, &setup.encode_length_delimited_to_vec()));
        for _ in 0..random.below(6) {
            let payloads: Vec<Vec<u8>> =
                (0..random.between(1, 4)).map(|_| vec![b'm'; random.below(300)]).collect();
            let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            bytes.extend(frame(0x00, &request(Some(60), &payloads).encode_length_delimited_to_vec()));
        }
        bytes.extend(frame(0x80, b""));
    }
    let first = if random.one_in(5) { 0 } else { handshake("/", "").len() };
    for _ in 0..random.below(8) {
        let at = random.between(first, bytes.len() - 1);
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..(at + random.between(1, 20)).min(bytes.len()))),
            _ => bytes.insert(at, random.next() as u8),
        }
        if bytes.len() <= first + 1 {
            break;
        }
    }
    bytes
}

#[test]
fn random_bytes_and_mutated_traffic_for_a_minute() {
    let server = server(&["--handshake-timeout", "2s", "--pb-timeout", "2s"]);
    let neighbour = Neighbour::beside(&server);
    let until = Instant::now() + Duration::from_secs(60);
    let attempts: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let server = &server;
                scope.spawn(move || {
                    let mut random = Random(seed);
                    let mut attempts = 0;
                    while Instant::now() < until {
                        attempts += 1;
                        let mut stream = server.dial();
                        let bytes = if random.one_in(4) {
                            let mut bytes =
                                if random.one_in(2) { handshake("/", "").into_bytes() } else { vec![] };
                            bytes.extend((0..random.between(1, 4000)).map(|_| random.next() as u8));
                            bytes
                        } else {
                            mutated(&mut random)
                        };
                        for piece in bytes.chunks(random.between(1, 2000)) {
                            // The server may close the connection early, for instance if the handshake was
                            // invalid.
                            if stream.write_all(piece).is_err() {
                                break;
                            }
                        }
                        if random.one_in(3) {
                            // Any answer will do. The server must answer or close the connection.
                            let _ = stream.shutdown(std::net::Shutdown::Write);
                            rest(&mut stream);
                        } else {
                            vanish(stream);
                        }
                    }
                    attempts
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    println!("{attempts} attempts");
    eventually("all connections are closed", || {
        (server.metric("millstream_connections{") == 2).then_some(())
    });
    assert_eq!(server.metric("millstream_budget_reserved_bytes"), 0);
    assert_eq!(server.metric("millstream_budget_held_bytes"), 0);
    let setup: ProduceSetupResponse = {
        let mut client = Client::connect(&server);
        client.begin(&append("mutants"));
        client.receive_as()
    };
    assert_eq!(code(&setup.status), 100);
    is_sound(&server, neighbour);
}
