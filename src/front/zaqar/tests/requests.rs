//! Requests of each action, and the refusals in their order.

use std::borrow::Cow;

use super::super::action::{Resources, Texts};
use super::super::{Action, Request, texts};
use super::*;

const HEADERS: &str = r#""headers": {"Client-ID": "c", "X-Project-ID": "p"}"#;

/// Parses a request in both formats. Returns what `look` returns for each.
fn parsed<T: PartialEq + std::fmt::Debug>(
    text: &str,
    look: impl Fn(Result<Request<'_>, (u16, String)>) -> T,
) -> T {
    let [json, pack] = [Format::Json, Format::MessagePack].map(|format| {
        let bytes = encoded(format, text);
        look(Request::parse(format, &bytes).map_err(|refused| {
            let mut out = Vec::new();
            refused.write(format, &mut out);
            let answer = decoded(format, &out);
            assert_eq!(answer["headers"], serde_json::json!({"status": refused.status}));
            assert_eq!(answer["body"], serde_json::json!({"error": refused.text}));
            assert_eq!(answer["request"]["api"], "v2");
            let request: Json = serde_json::from_str(text).unwrap();
            if request.is_object() && request["action"] != "authenticate" {
                for (part, default) in [
                    ("action", Json::Null),
                    ("headers", serde_json::json!({})),
                    ("body", serde_json::json!({})),
                ] {
                    assert_eq!(answer["request"][part], *request.get(part).unwrap_or(&default));
                }
            }
            (refused.status, refused.text.into_owned())
        }))
    });
    assert_eq!(json, pack, "{text}");
    json
}

fn action(name: &str, body: &str) -> String {
    parsed(&format!(r#"{{"action": "{name}", {HEADERS}, "body": {body}}}"#), |request| match request {
        Ok(request) => shown(&request.action),
        Err((status, text)) => format!("{status} {text}"),
    })
}

/// Returns a form that is the same for both formats.
fn shown(action: &Action<'_>) -> String {
    let node = |node: Option<Node<'_>>| node.map(|node| node.to_json_value().unwrap().to_string());
    match action {
        Action::QueueCreate { queue, metadata } => format!("{queue} {:?}", metadata.map(node)),
        Action::MessagePost { queue, messages } => {
            let posted: Vec<_> = messages
                .iter()
                .map(|message| message.map(|message| (node(Some(message.body)).unwrap(), message.ttl)))
                .collect();
            format!("{queue} {posted:?}")
        }
        Action::MessageGetMany { queue, messages } => {
            format!("{queue} {} {:?}", messages.count_to(20), messages.iter().collect::<Vec<_>>())
        }
        Action::MessageDeleteMany { queue, messages, claims, pop } => {
            fn ids<'a>(ids: &Option<Texts<'a>>) -> Option<Vec<Cow<'a, str>>> {
                ids.map(|ids| ids.iter().collect())
            }
            format!("{queue} {:?} {:?} {pop:?}", ids(messages), ids(claims))
        }
        Action::SubscriptionCreate { queue, subscriber, ttl, options } => {
            format!("{queue} {subscriber:?} {ttl:?} {:?}", node(*options))
        }
        other => format!("{other:?}"),
    }
}

fn invalid(field: &str, why: &str) -> String {
    format!("400 Schema validation failed. {field} {why}.")
}

#[test]
fn every_action_has_its_fields() {
    let queue = Cow::Borrowed("q");
    let q = r#"{"queue_name": "q"}"#;
    for (name, body, expected) in [
        ("queue_create", q, "q Ok(None)".to_owned()),
        (
            "queue_create",
            r#"{"queue_name": "", "metadata": {"a": 1}}"#,
            " Ok(Some(\"{\\\"a\\\":1}\"))".to_owned(),
        ),
        ("queue_create", r#"{"queue_name": "q", "metadata": null}"#, "q Ok(None)".to_owned()),
        ("queue_create", r#"{"queue_name": "q", "metadata": []}"#, "q Ok(None)".to_owned()),
        ("queue_create", r#"{"queue_name": "q", "metadata": ""}"#, "q Ok(None)".to_owned()),
        (
            "queue_create",
            r#"{"queue_name": "q", "metadata": 0}"#,
            format!("q Err({:?})", texts::BAD_METADATA),
        ),
        ("queue_list", "{}", shown(&Action::QueueList { marker: None, limit: None, detailed: false })),
        (
            "queue_list",
            r#"{"marker": "m", "limit": 0, "detailed": true}"#,
            shown(&Action::QueueList { marker: Some("m".into()), limit: Some(0), detailed: true }),
        ),
        ("queue_get", q, shown(&Action::QueueGet { queue: queue.clone() })),
        ("queue_delete", q, shown(&Action::QueueDelete { queue: queue.clone() })),
        ("queue_get_stats", q, shown(&Action::QueueGetStats { queue: queue.clone() })),
        (
            "queue_purge",
            q,
            shown(&Action::QueuePurge {
                queue: queue.clone(),
                resources: Resources { messages: true, subscriptions: true },
            }),
        ),
        (
            "queue_purge",
            r#"{"queue_name": "q", "resource_types": ["messages", 5, "x"]}"#,
            shown(&Action::QueuePurge {
                queue: queue.clone(),
                resources: Resources { messages: true, subscriptions: false },
            }),
        ),
        (
            "message_post",
            r#"{"queue_name": "q", "messages": [{"body": null, "delay": 5}, {"ttl": 60, "body": {"a": []}}]}"#,
            r#"q [Ok(("null", None)), Ok(("{\"a\":[]}", Some(60)))]"#.to_owned(),
        ),
        (
            "message_post",
            r#"{"queue_name": "q", "messages": [{}, {"body": 1, "ttl": 1.0}, {"body": 1, "ttl": null}, 5]}"#,
            format!(
                "q [Err({:?}), Err({:?}), Err({:?}), Err({:?})]",
                texts::MISSING_BODY,
                texts::BAD_TTL,
                texts::BAD_TTL,
                texts::BAD_MESSAGE
            ),
        ),
        (
            "message_list",
            r#"{"queue_name": "q", "marker": "1", "limit": -1, "echo": true, "include_claimed": true, "include_delayed": "Yes", "ttl": 5}"#,
            shown(&Action::MessageList {
                queue: queue.clone(),
                marker: Some("1".into()),
                limit: Some(-1),
                echo: true,
                include_claimed: true,
                include_delayed: true,
            }),
        ),
        (
            "message_list",
            r#"{"queue_name": "q", "include_delayed": "perhaps"}"#,
            shown(&Action::MessageList {
                queue: queue.clone(),
                marker: None,
                limit: None,
                echo: false,
                include_claimed: false,
                include_delayed: false,
            }),
        ),
        (
            "message_get",
            r#"{"queue_name": "q", "message_id": "é"}"#,
            shown(&Action::MessageGet { queue: queue.clone(), message: "é".into() }),
        ),
        (
            "message_get_many",
            r#"{"queue_name": "q", "message_ids": ["a", 5, "a"]}"#,
            r#"q 3 ["a", "a"]"#.to_owned(),
        ),
        (
            "message_delete",
            r#"{"queue_name": "q", "message_id": "m", "claim_id": "c"}"#,
            shown(&Action::MessageDelete {
                queue: queue.clone(),
                message: "m".into(),
                claim: Some("c".into()),
            }),
        ),
        (
            "message_delete_many",
            r#"{"queue_name": "q", "message_ids": [], "claim_ids": ["c"]}"#,
            r#"q Some([]) Some(["c"]) None"#.to_owned(),
        ),
        ("message_delete_many", r#"{"queue_name": "q", "pop": 3}"#, "q None None Some(3)".to_owned()),
        (
            "claim_create",
            r#"{"queue_name": "q", "ttl": 1, "grace": 2, "limit": 3}"#,
            shown(&Action::ClaimCreate {
                queue: queue.clone(),
                ttl: Some(1),
                grace: Some(2),
                limit: Some(3),
            }),
        ),
        (
            "claim_get",
            r#"{"queue_name": "q", "claim_id": "c"}"#,
            shown(&Action::ClaimGet { queue: queue.clone(), claim: "c".into() }),
        ),
        (
            "claim_update",
            r#"{"queue_name": "q", "claim_id": "c", "grace": "x"}"#,
            shown(&Action::ClaimUpdate {
                queue: queue.clone(),
                claim: "c".into(),
                ttl: None,
                grace: Err(texts::BAD_GRACE),
            }),
        ),
        (
            "claim_delete",
            r#"{"queue_name": "q", "claim_id": "c"}"#,
            shown(&Action::ClaimDelete { queue: queue.clone(), claim: "c".into() }),
        ),
        (
            "subscription_create",
            r#"{"queue_name": "q", "subscriber": "http://x", "ttl": 5, "options": {}}"#,
            r#"q Some("http://x") Some(5) Some("{}")"#.to_owned(),
        ),
        (
            "subscription_list",
            r#"{"queue_name": "q", "marker": "m", "limit": " 5"}"#,
            shown(&Action::SubscriptionList {
                queue: queue.clone(),
                marker: Ok(Some("m".into())),
                limit: Ok(Some(5)),
            }),
        ),
        (
            "subscription_list",
            r#"{"queue_name": "q", "marker": 5, "limit": "x"}"#,
            shown(&Action::SubscriptionList {
                queue: queue.clone(),
                marker: Err(texts::BAD_MARKER),
                limit: Err(texts::BAD_LIMIT),
            }),
        ),
        (
            "subscription_get",
            r#"{"queue_name": "q", "subscription_id": "s"}"#,
            shown(&Action::SubscriptionGet { queue: queue.clone(), subscription: "s".into() }),
        ),
        (
            "subscription_delete",
            r#"{"queue_name": "q", "subscription_id": "s"}"#,
            shown(&Action::SubscriptionDelete { queue: queue.clone(), subscription: "s".into() }),
        ),
    ] {
        assert_eq!(action(name, body), expected, "{name} {body}");
    }
}

#[test]
fn schemas_are_strict() {
    const MISSING: &str = "is missing";
    let with = |field: &str| format!(r#"{{"queue_name": "q", "message_id": "m", "claim_id": "c", {field}}}"#);
    for name in ["queue_create", "message_post", "claim_create", "subscription_list", "queue_purge"] {
        assert_eq!(action(name, "{}"), invalid("queue_name", MISSING), "{name}");
        for body in ["null", "[]", "\"\"", "1"] {
            assert_eq!(action(name, body), invalid("body", "must be a map"), "{name}");
        }
        assert_eq!(action(name, r#"{"queue_name": 5}"#), invalid("queue_name", "must be text"));
    }
    for (name, field, values, why) in [
        ("queue_list", "limit", &["true", "5.0", "\"5\"", "null"][..], "must be an integer"),
        ("message_list", "limit", &["false", "1e1", "[]"], "must be an integer"),
        ("message_list", "echo", &["\"true\"", "1", "null"], "must be true or false"),
        ("message_list", "include_claimed", &["\"yes\"", "0"], "must be true or false"),
        ("message_list", "marker", &["1", "null"], "must be text"),
        ("queue_list", "detailed", &["1"], "must be true or false"),
        ("queue_purge", "resource_types", &["\"messages\"", "{}", "null"], "must be an array"),
        ("message_post", "messages", &["{}", "null", "\"\""], "must be an array"),
        ("message_get", "message_id", &["1", "null"], "must be text"),
        ("message_delete", "claim_id", &["1", "null"], "must be text"),
        ("message_delete_many", "pop", &["\"1\"", "1.0", "null"], "must be an integer"),
        ("message_delete_many", "message_ids", &["\"a\"", "null"], "must be an array"),
        ("claim_create", "grace", &["true"], "must be an integer"),
        ("claim_update", "ttl", &["null"], "must be an integer"),
        ("subscription_create", "options", &["[]", "null"], "must be a map"),
        ("subscription_create", "subscriber", &["null"], "must be text"),
    ] {
        for value in values {
            let body = with(&format!(r#""{field}": {value}"#));
            assert_eq!(action(name, &body), invalid(field, why), "{name} {body}");
        }
    }
    assert_eq!(action("message_post", r#"{"queue_name": "q"}"#), invalid("messages", MISSING));
    assert_eq!(action("claim_get", r#"{"queue_name": "q"}"#), invalid("claim_id", MISSING));
    assert_eq!(action("subscription_get", r#"{"queue_name": "q"}"#), invalid("subscription_id", MISSING));
}

#[test]
fn refusals_come_in_their_order() {
    let refusal = |text: &str| parsed(text, |request| request.map(drop).unwrap_err());
    for (text, status, expected) in [
        ("[]", 400, texts::NO_MAP),
        ("null", 400, texts::NO_MAP),
        ("{}", 400, "None is not a valid action"),
        (r#"{"action": null, "body": 5}"#, 400, "None is not a valid action"),
        (r#"{"action": "nope", "headers": 5}"#, 400, "nope is not a valid action"),
        (r#"{"action": 5}"#, 400, "5 is not a valid action"),
        (r#"{"action": true}"#, 400, "True is not a valid action"),
        (r#"{"action": ["queue_list"]}"#, 400, texts::BAD_ACTION),
        (r#"{"action": {}}"#, 400, texts::BAD_ACTION),
        (r#"{"action": "ping_node"}"#, 501, "ping_node is not implemented by this server"),
        (r#"{"action": "pool_list"}"#, 501, "pool_list is not implemented by this server"),
        (r#"{"action": "flavor_create"}"#, 501, "flavor_create is not implemented by this server"),
        (r#"{"action": "queue_list"}"#, 400, "Schema validation failed. headers is missing."),
        (
            r#"{"action": "queue_list", "headers": []}"#,
            400,
            "Schema validation failed. headers must be a map.",
        ),
        (
            r#"{"action": "queue_list", "headers": {"X-Project-ID": "p"}}"#,
            400,
            "Schema validation failed. Client-ID is missing.",
        ),
        (
            r#"{"action": "queue_list", "headers": {"Client-ID": "c", "x-project-id": "p"}}"#,
            400,
            "Schema validation failed. X-Project-ID is missing.",
        ),
        (
            r#"{"action": "queue_list", "headers": {"Client-ID": 1, "X-Project-ID": "p"}}"#,
            400,
            "Schema validation failed. Client-ID must be text.",
        ),
        (
            r#"{"action": "queue_list", "headers": {"Client-ID": "c", "X-Project-ID": "p", "Date": 1}}"#,
            400,
            "Schema validation failed. Date must be text.",
        ),
        (
            r#"{"action": "queue_get", "headers": {"Client-ID": "c", "X-Project-ID": "p"}}"#,
            400,
            "Schema validation failed. body is missing.",
        ),
        (
            r#"{"action": "authenticate", "headers": {"X-Project-ID": "p"}}"#,
            400,
            "Schema validation failed. X-Auth-Token is missing.",
        ),
    ] {
        assert_eq!(refusal(text), (status, expected.to_owned()), "{text}");
    }
}

#[test]
fn undecodable_requests_repeat_nothing() {
    for (format, bytes, text) in [
        (Format::Json, &b"["[..], "Can't decode text (JSON) request. Error at byte 1: the text ends early."),
        (
            Format::MessagePack,
            b"{\"a\":1}",
            "Can't decode binary (MessagePack) request. Error at byte 1: bytes after the value.",
        ),
    ] {
        let refused = Request::parse(format, bytes).unwrap_err();
        let mut out = Vec::new();
        refused.write(format, &mut out);
        assert_eq!(
            decoded(format, &out),
            serde_json::json!({
                "request": {"action": null, "body": {}, "headers": {}, "api": "v2"},
                "body": {"error": text},
                "headers": {"status": 400},
            })
        );
    }
}

#[test]
fn an_answer_to_authenticate_does_not_show_the_token() {
    let text = r#"{"action": "authenticate", "headers": {"X-Auth-Token": "secret", "X-Project-ID": "p"}, "body": null}"#;
    parsed(text, |request| {
        let request = request.unwrap();
        assert!(matches!(request.action, Action::Authenticate));
        assert_eq!(request.headers.token.as_deref(), Some("secret"));
        assert_eq!((&*request.headers.client, &*request.headers.project), ("", "p"));
        assert!(request.echo.headers.is_none() && request.echo.body.is_none());
    });
    let refused =
        Request::parse(Format::Json, br#"{"action":"authenticate","headers":{"X-Auth-Token":"secret"}}"#);
    let mut out = Vec::new();
    refused.unwrap_err().write(Format::Json, &mut out);
    assert!(!out.windows(6).any(|window| window == b"secret"));
}

#[test]
fn a_body_may_be_left_out_where_nothing_is_required() {
    let text = format!(r#"{{"action": "queue_list", {HEADERS}}}"#);
    assert!(parsed(&text, |request| request.is_ok()));
    assert_eq!(action("queue_list", "null"), invalid("body", "must be a map"));
    assert_eq!(action("queue_list", "[]"), invalid("body", "must be a map"));
}

#[test]
fn presigned_headers_are_read_only_when_asked_for() {
    let with = |signed: &str| {
        let text = format!(
            r#"{{"action": "queue_list", "headers": {{"Client-ID": "c", "X-Project-ID": "p"{signed}}}}}"#
        );
        parsed(&text, |request| {
            let headers = request.unwrap().headers;
            let presigned = headers.presigned().map(|presigned| {
                (
                    presigned.signature.into_owned(),
                    presigned.expires.into_owned(),
                    presigned.methods.concat(),
                    presigned.paths.concat(),
                )
            });
            (headers.is_presigned(), presigned)
        })
    };
    assert_eq!(with(""), (false, None));
    let all =
        r#", "URL-Signature": "s", "URL-Expires": "e", "URL-Methods": ["GET", "POST"], "URL-Paths": ["/p"]"#;
    let texts = ("s".to_owned(), "e".to_owned(), "GETPOST".to_owned(), "/p".to_owned());
    assert_eq!(with(all), (true, Some(texts)));
    assert_eq!(with(&all.replace("[\"GET\", \"POST\"]", "null")), (true, None));
    assert_eq!(with(&all.replace("[\"GET\", \"POST\"]", "[\"GET\", 5]")), (true, None));
    assert_eq!(with(&all.replace("\"s\"", "5")), (true, None));
}
