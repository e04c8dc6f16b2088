//! Answers with the echo of their requests, the shapes of errors, and notifications.

use super::body;
use super::document::{Format, Node};
use super::writer::Writer;

/// The parts of a request that its answer repeats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo<'a> {
    /// The action as sent. Absent: null.
    pub action: Option<Node<'a>>,
    /// The headers as sent. Absent: an empty map.
    pub headers: Option<Node<'a>>,
    /// The body as sent. Absent: an empty map.
    pub body: Option<Node<'a>>,
}

impl Echo<'_> {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.map(4, |writer| {
            writer.key("action");
            match self.action {
                Some(action) => writer.node(action),
                None => writer.null(),
            }
            for (key, part) in [("body", self.body), ("headers", self.headers)] {
                writer.key(key);
                match part {
                    Some(part) => writer.node(part),
                    None => writer.map(0, |_| ()),
                }
            }
            writer.key("api");
            writer.text("v2");
        });
    }
}

/// Appends an answer with this status. `body` must write exactly one value.
#[inline]
pub fn answer<R>(
    format: Format,
    echo: &Echo<'_>,
    status: u16,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Writer<'_>) -> R,
) -> R {
    Writer::new(format, out).map(3, |writer| {
        writer.key("request");
        echo.write(writer);
        writer.key("body");
        let written = body(writer);
        writer.key("headers");
        writer.map(1, |writer| {
            writer.key("status");
            writer.integer(status);
        });
        written
    })
}

/// Appends the answer to a request that was refused before its action began: `{"error": …}`.
pub fn error(format: Format, echo: &Echo<'_>, status: u16, error: &str, out: &mut Vec<u8>) {
    answer(format, echo, status, out, |writer| {
        writer.map(1, |writer| {
            writer.key("error");
            writer.text(error);
        });
    });
}

/// Appends the answer to an action that failed: `{"exception": …, "error": …}`. Most errors of clients have no `error`.
pub fn exception(
    format: Format,
    echo: &Echo<'_>,
    status: u16,
    exception: &str,
    error: Option<&str>,
    out: &mut Vec<u8>,
) {
    answer(format, echo, status, out, |writer| {
        writer.map(2, |writer| {
            writer.key("exception");
            writer.text(exception);
            writer.key("error");
            match error {
                Some(error) => writer.text(error),
                None => writer.null(),
            }
        });
    });
}

/// Appends an answer whose body is text.
pub fn text(format: Format, echo: &Echo<'_>, status: u16, text: &str, out: &mut Vec<u8>) {
    answer(format, echo, status, out, |writer| writer.text(text));
}

/// Appends the notification of a message, which is stored as `payload` with encoded `headers`.
pub fn notification(
    format: Format,
    queue: &str,
    ttl_secs: u64,
    payload: &[u8],
    headers: &[u8],
    out: &mut Vec<u8>,
) {
    Writer::new(format, out).map(4, |writer| {
        writer.key("body");
        body::write(payload, headers, writer);
        writer.key("ttl");
        writer.integer(ttl_secs);
        writer.key("queue_name");
        writer.text(queue);
        writer.key("Message_Type");
        writer.text("Notification");
    });
}
