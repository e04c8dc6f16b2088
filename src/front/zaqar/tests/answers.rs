//! Answers and notifications.

use super::super::answer::{self, Echo, answer, notification};
use super::super::body::store;
use super::*;

const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

#[test]
fn answers_repeat_the_request_as_sent() {
    let text = br#"{"action": "queue_get", "headers": {"a" : 1.50}, "body": [ ]}"#;
    let [action, headers, body] = node(Format::Json, text).named(["action", "headers", "body"]);
    let mut out = b"before".to_vec();
    answer(Format::Json, &Echo { action, headers, body }, 200, &mut out, |writer| {
        writer.map(2, |writer| {
            writer.key("numbers");
            writer.array(3, |writer| {
                writer.integer(1);
                writer.float(2.5);
                writer.null();
            });
            writer.key("é\n");
            writer.bool(true);
        });
    });
    assert_eq!(
        std::str::from_utf8(&out).unwrap(),
        concat!(
            r#"before{"request":{"action":"queue_get","body":[ ],"headers":{"a" : 1.50},"api":"v2"},"#,
            r#""body":{"numbers":[1,2.5,null],"é\n":true},"headers":{"status":200}}"#
        )
    );
}

#[test]
fn errors_have_their_shapes_in_both_formats() {
    let nothing = serde_json::json!({"action": null, "body": {}, "headers": {}, "api": "v2"});
    for format in FORMATS {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            decoded(format, &out)
        };
        let echo = Echo::default();
        for (found, status, body) in [
            (
                written(&|out| answer::error(format, &echo, 403, "Not authentified.", out)),
                403,
                serde_json::json!({"error": "Not authentified."}),
            ),
            (
                written(&|out| answer::exception(format, &echo, 400, "why", None, out)),
                400,
                serde_json::json!({"exception": "why", "error": null}),
            ),
            (
                written(&|out| answer::exception(format, &echo, 500, "why", Some("Unexpected error."), out)),
                500,
                serde_json::json!({"exception": "why", "error": "Unexpected error."}),
            ),
            (
                written(&|out| answer::text(format, &echo, 409, "Subscription q not created.", out)),
                409,
                serde_json::json!("Subscription q not created."),
            ),
        ] {
            assert_eq!(
                found,
                serde_json::json!({"request": nothing, "body": body, "headers": {"status": status}})
            );
        }
    }
}

#[test]
fn notifications_are_those_of_the_api() {
    let (mut payload, mut headers) = (Vec::new(), Vec::new());
    store(node(Format::Json, br#"{"a":[1]}"#), 1000, &mut payload, &mut headers).unwrap();
    for format in FORMATS {
        let mut out = Vec::new();
        notification(format, "q", 3600, &payload, &headers, &mut out);
        assert_eq!(
            decoded(format, &out),
            serde_json::json!({"body": {"a": [1]}, "ttl": 3600, "queue_name": "q", "Message_Type": "Notification"})
        );
    }
}
