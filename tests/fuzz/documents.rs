//! The body of the fuzz target for the documents of the Zaqar v2 WebSocket API: requests, and bodies of messages.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use millstream::front::zaqar::answer::{answer, notification};
use millstream::front::zaqar::{Action, Document, Format, Kind, Node, Request, Writer, body, repr};

const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

/// Any bytes in both formats: nothing panics, what is written can be read, and what is accepted is the same after
/// its echo.
pub fn zaqar(data: &[u8]) {
    for format in FORMATS {
        match Document::check(format, data) {
            Ok(document) => values(document.root()),
            Err(undecodable) => assert!(undecodable.at <= data.len()),
        }
        request(format, data);
    }
    // The payload and the headers of a message of another protocol.
    let (payload, headers) = data.split_at(data.len() / 2);
    for writes in FORMATS {
        written(writes, |writer| body::write(payload, headers, writer));
    }
}

/// Returns a document with the value that `write` writes. It may be deeper than a request.
fn written(format: Format, write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut Writer::new(format, &mut out));
    assert!(out.starts_with(b"before"));
    out.drain(..6);
    if let Err(undecodable) = Document::check(format, &out) {
        assert_eq!(undecodable.why, "too many arrays and maps inside each other", "{out:02x?}");
    }
    out
}

/// Returns the root of a document, or `None` if it is too deep.
fn root(format: Format, bytes: &[u8]) -> Option<Node<'_>> {
    Document::check(format, bytes).ok().map(|document| document.root())
}

fn values(root: Node<'_>) {
    let length = repr::repr_length(root);
    assert!(!repr::is_longer_than(root, length) && repr::is_longer_than(root, length - 1));
    for format in FORMATS {
        written(format, |writer| writer.node(root));
    }
    let mut pieces = 0;
    for (key, value) in root.entries() {
        assert!(matches!(key.kind(), Kind::Text | Kind::Binary));
        pieces += key.raw().len() + value.raw().len();
    }
    for element in root.elements() {
        let _ = (element.as_integer(), element.as_float(), element.as_text(), element.as_bool());
        pieces += element.raw().len();
    }
    assert!(pieces <= root.raw().len());
    let tree = root.to_json_value();
    let (mut payload, mut headers) = (Vec::new(), Vec::new());
    if body::store(root, 1 << 10, &mut payload, &mut headers).is_err() {
        assert!(payload.is_empty() && headers.is_empty() && root.format() == Format::MessagePack);
        return;
    }
    assert!(tree.is_none() || serde_json::from_slice::<serde_json::Value>(&payload).ok() == tree);
    // Stored again, what a reader gets is the same message.
    let format = root.format();
    let read = written(format, |writer| body::write(&payload, &headers, writer));
    if format == Format::Json {
        assert_eq!(read, root.raw());
    } else if Document::check(Format::Json, &payload).is_ok() {
        let again = self::root(format, &read).expect("it is as deep as the original");
        let (mut same_payload, mut same_headers) = (Vec::new(), Vec::new());
        body::store(again, 1 << 10, &mut same_payload, &mut same_headers).unwrap();
        assert_eq!((payload, headers), (same_payload, same_headers));
    }
}

fn request(format: Format, data: &[u8]) {
    let request = match Request::parse(format, data) {
        Ok(request) => request,
        Err(refused) => {
            let mut out = Vec::new();
            refused.write(format, &mut out);
            assert!(refused.status == 400 || refused.status == 501);
            let Some(answer) = root(format, &out) else { return };
            let [body] = answer.named(["body"]);
            let [error] = body.unwrap().named(["error"]);
            assert_eq!(error.unwrap().as_text().unwrap(), refused.text);
            return;
        }
    };
    let _ = request.headers.presigned();
    let mut out = Vec::new();
    answer(format, &request.echo, 200, &mut out, |writer| match &request.action {
        Action::MessagePost { messages, .. } => {
            for message in messages.iter().flatten() {
                values(message.body);
            }
            writer.node(messages.node());
        }
        Action::QueueCreate { queue, metadata: Ok(Some(metadata)) } => {
            let _ = metadata.to_json_map();
            writer.text(queue);
        }
        Action::MessageGetMany { messages, .. } => {
            assert!(messages.iter().count() >= messages.iter().take(messages.count_to(3)).count());
            writer.null();
        }
        _ => writer.null(),
    });
    let mut notified = Vec::new();
    notification(format, &request.headers.project, 60, data, b"", &mut notified);
    assert!(root(format, &notified).is_some());
    let Some(answer) = root(format, &out) else { return };
    let [echo, headers] = answer.named(["request", "headers"]);
    assert_eq!(headers.unwrap().named(["status"])[0].unwrap().as_integer(), Some(200));
    if matches!(request.action, Action::Authenticate) {
        return;
    }
    // A request that is its own echo has the same meaning.
    let again = Request::parse(format, echo.unwrap().raw()).unwrap();
    let name = |request: &Request<'_>| request.echo.action.unwrap().raw().to_vec();
    assert_eq!(name(&again), name(&request));
    assert_eq!(again.headers.project, request.headers.project);
    assert_eq!(again.headers.client, request.headers.client);
}
