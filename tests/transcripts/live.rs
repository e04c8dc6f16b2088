//! Replays a conversation with a real server.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::common::Server;
use super::conversation::{Conversation, Event, Step, escape};

/// Replays a conversation. The error shows the first difference.
pub fn replay(conversation: &Conversation) -> Result<(), String> {
    let mut arguments: Vec<String> = vec!["--cores".into(), "0".into()];
    for (key, text) in &conversation.settings {
        arguments.extend([format!("--{}", key.replace('_', "-")), text.clone()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start(&arguments);
    let mut streams: BTreeMap<&str, TcpStream> = BTreeMap::new();
    for (step, events) in &conversation.steps {
        match step {
            Step::Open(name) => drop(streams.insert(name, server.dial())),
            Step::In(name, bytes) => streams[&name[..]].try_clone().unwrap().write_all(bytes).unwrap(),
            Step::Gone(name) => drop(streams.remove(&name[..])),
            other => panic!("{other}: a real server has no such step"),
        }
        for event in events {
            match event {
                Event::Out(name, expected) => {
                    let mut found = vec![0; expected.len()];
                    let mut length = 0;
                    let stream = streams.get_mut(&name[..]).unwrap();
                    while length < found.len() {
                        match stream.read(&mut found[length..]) {
                            Ok(0) => break,
                            Ok(bytes) => length += bytes,
                            Err(error) if error.kind() == ErrorKind::Interrupted => {}
                            Err(_) => break,
                        }
                    }
                    if found[..length] != expected[..] {
                        let (expected, found) = (escape(expected), escape(&found[..length]));
                        return Err(format!("after: {step}\nexpected: {expected}\n   found: {found}"));
                    }
                }
                Event::Shut(name) | Event::Over(name) => {
                    let mut found = [0; 64];
                    let length = streams.get_mut(&name[..]).unwrap().read(&mut found).unwrap_or(0);
                    if length > 0 {
                        let found = escape(&found[..length]);
                        return Err(format!("after: {step}\nexpected: {event}\n   found: {found}"));
                    }
                }
                Event::Refused(name) => panic!("{name}: the core does not write the text of a refusal"),
            }
        }
    }
    Ok(())
}
