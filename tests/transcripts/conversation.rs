//! A conversation in a file: the steps, and below each step, indented, its events.
//!
//! ```text
//! # A description.
//! set partitions 1
//! on a server too
//! open a
//! in a "GET / HTTP/1.1\r\n"
//!   out a "HTTP/1.1 101 Switching Protocols\r\n"
//! wait 1000
//! ```
//! Bytes are written like a Rust byte string. Clients' frames have a mask of zeros, so that they are
//! readable.

use std::fmt::{self, Write};

/// How a store responds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    /// The store works.
    #[default]
    None,
    /// The queue was deleted.
    Deleted,
    /// The store cannot be reached.
    Unavailable,
}

/// An action on the core or by a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A peer connects.
    Open(String),
    /// The peer sends bytes.
    In(String, Vec<u8>),
    /// The peer closes the connection.
    Gone(String),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The server begins to drain.
    Drain,
    /// The store starts or stops to respond in this way.
    Trouble(Trouble),
    /// The server restarts without connections and with an empty store.
    Restart { incarnation: u64, timeline: u64 },
}

/// A visible effect of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server has no room for the connection.
    Refused(String),
    /// The server sent bytes.
    Out(String, Vec<u8>),
    /// The server ends its half.
    Shut(String),
    /// The server closes the connection.
    Over(String),
}

/// A recorded conversation.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// What the conversation shows.
    pub about: String,
    /// Settings that differ from their defaults.
    pub settings: Vec<(String, String)>,
    /// Whether a real server sends the same bytes.
    pub on_a_server: bool,
    /// The steps, each with its events.
    pub steps: Vec<(Step, Vec<Event>)>,
}

impl Conversation {
    /// Parses a file. Returns `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut conversation = Self::default();
        for line in text.lines() {
            let (word, rest) = line.trim_start().split_once(' ').unwrap_or((line.trim_start(), ""));
            let bytes = || {
                let (name, quoted) = rest.split_once(' ')?;
                Some((name.to_owned(), unescape(quoted)?))
            };
            if line.starts_with(' ') {
                let event = match word {
                    "refused" => Event::Refused(rest.into()),
                    "out" => bytes().map(|(name, bytes)| Event::Out(name, bytes))?,
                    "shut" => Event::Shut(rest.into()),
                    "over" => Event::Over(rest.into()),
                    _ => return None,
                };
                conversation.steps.last_mut()?.1.push(event);
                continue;
            }
            let step = match word {
                "#" => {
                    conversation.about = rest.into();
                    continue;
                }
                "set" => {
                    let (key, text) = rest.split_once(' ')?;
                    conversation.settings.push((key.into(), text.into()));
                    continue;
                }
                "on" => {
                    conversation.on_a_server = true;
                    continue;
                }
                "open" => Step::Open(rest.into()),
                "in" => bytes().map(|(name, bytes)| Step::In(name, bytes))?,
                "gone" => Step::Gone(rest.into()),
                "wait" => Step::Wait(rest.parse().ok()?),
                "drain" => Step::Drain,
                "store" => Step::Trouble(match rest {
                    "works" => Trouble::None,
                    "deleted" => Trouble::Deleted,
                    "unavailable" => Trouble::Unavailable,
                    _ => return None,
                }),
                "restart" => {
                    let (incarnation, timeline) = rest.split_once(' ')?;
                    Step::Restart { incarnation: incarnation.parse().ok()?, timeline: timeline.parse().ok()? }
                }
                _ => return None,
            };
            conversation.steps.push((step, Vec::new()));
        }
        Some(conversation)
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.about)?;
        self.settings.iter().try_for_each(|(key, text)| writeln!(f, "set {key} {text}"))?;
        if self.on_a_server {
            writeln!(f, "on a server too")?;
        }
        for (step, events) in &self.steps {
            writeln!(f, "{step}")?;
            events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(name) => write!(f, "open {name}"),
            Self::In(name, bytes) => write!(f, "in {name} {}", escape(bytes)),
            Self::Gone(name) => write!(f, "gone {name}"),
            Self::Wait(ms) => write!(f, "wait {ms}"),
            Self::Drain => write!(f, "drain"),
            Self::Trouble(Trouble::None) => write!(f, "store works"),
            Self::Trouble(Trouble::Deleted) => write!(f, "store deleted"),
            Self::Trouble(Trouble::Unavailable) => write!(f, "store unavailable"),
            Self::Restart { incarnation, timeline } => write!(f, "restart {incarnation} {timeline}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(name) => write!(f, "refused {name}"),
            Self::Out(name, bytes) => write!(f, "out {name} {}", escape(bytes)),
            Self::Shut(name) => write!(f, "shut {name}"),
            Self::Over(name) => write!(f, "over {name}"),
        }
    }
}

/// Returns bytes in quotation marks, escaped like a Rust byte string.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    write!(text, "{}\"", bytes.escape_ascii()).unwrap();
    text
}

fn unescape(quoted: &str) -> Option<Vec<u8>> {
    let mut rest = quoted.strip_prefix('"')?.strip_suffix('"')?.bytes();
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            byte => byte,
        });
    }
    Some(bytes)
}
