//! Conversations about the limits of projects and servers, and about draining.

use super::super::conversation::Step;
use super::super::script::{ONE, Script, TWO, append, credit, get, handshake, request};

pub fn project(script: &mut Script) {
    script.about("A project's limits on connections, operations, queues and stored bytes: 429.");
    script.on_a_server();
    script.set("partitions", "1");
    script.set("project_max_connections", "2");
    script.set("project_max_operations", "1");
    script.set("project_max_queues", "1");
    script.set("project_storage_bytes", "1000");
    script.connect("a", ONE);
    script.connect("b", TWO);
    script.connect("c", TWO);
    script.open("other");
    script.send("other", &handshake("/", &format!("X-Project-Id: other\r\nClient-ID: {ONE}\r\n")));
    script.begin("a", &append("q"));
    script.begin("b", &append("q"));
    script.finish("b");
    script.begin("other", &append("q"));
    script.finish("a");
    script.begin("a", &append("second"));
    script.finish("a");
    script.begin("a", &append("q"));
    script.pb("a", &request(60, &[&[b'x'; 400]]));
    script.pb("a", &request(60, &[&[b'x'; 700]]));
    script.finish("a");
    script.pb("other", &request(60, &[&[b'x'; 400]]));
    script.finish("other");
}

pub fn rate(script: &mut Script) {
    script.about("A project's rate: credit is withheld, and a setup beyond the rate is refused with 429.");
    script.set("partitions", "1");
    script.set("project_messages_per_sec", "100");
    script.set("project_bytes_per_sec", "100000");
    script.connect("a", ONE);
    script.begin("a", &append("q"));
    script.pb("a", &request(60, &[&b"x"[..]; 100]));
    script.connect("b", TWO);
    script.begin("b", &append("q"));
    script.pb("b", &request(60, &[&b"y"[..]; 100]));
    script.finish("b");
    script.begin("b", &append("q"));
    script.wait(1_000);
    script.pb("a", &request(60, &[&b"x"[..]; 10]));
    script.wait(5_000);
    script.finish("a");
    script.begin("a", &append("q"));
    script.finish("a");
}

pub fn server(script: &mut Script) {
    script.about("A server without room for more connections, and with auto_create off.");
    script.set("max_connections", "2");
    script.set("auto_create", "false");
    script.connect("a", ONE);
    script.begin("a", &append("q"));
    script.finish("a");
    script.begin("a", &get("q", "", true));
    script.finish("a");
    script.open("b");
    script.open("c");
    script.step(Step::Gone("b".into()));
    script.open("d");
    script.close("a");
}

pub fn drain(script: &mut Script) {
    script.about("Draining: producers, consumers and handshakes get 503, and all connections 1001.");
    script.set("partitions", "1");
    script.connect("producer", ONE);
    script.begin("producer", &append("q"));
    script.pb("producer", &request(60, &[&b"x"[..]; 150]));
    script.connect("consumer", TWO);
    script.begin("consumer", &get("q", "", true));
    script.pb("consumer", &credit(120, true));
    script.connect("waiting", TWO);
    script.begin("waiting", &get("q", "latest", true));
    script.pb("waiting", &credit(120, true));
    script.connect("idle", ONE);
    script.open("handshaking");
    script.send("handshaking", b"GET / HTTP/1.1\r\n");
    script.step(Step::Drain);
    script.open("late");
    script.pb("producer", &request(60, &[b"late"]));
    script.pb("consumer", &credit(200, true));
    script.wait(100);
    script.finish("producer");
    script.finish("consumer");
    script.close("idle");
    script.wait(5_000);
    script.wait(2_000);
}
