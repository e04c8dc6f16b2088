//! Bodies that are posted, stored and read.

use super::super::body::{BINARY, BodyFault, store, write};
use super::super::{Kind, Writer};
use super::*;
use crate::pb::headers::{HeaderRef, HeadersReader, put_header};

fn stored(node: Node<'_>) -> Result<(Vec<u8>, Vec<u8>), BodyFault> {
    let (mut payload, mut headers) = (Vec::new(), Vec::new());
    store(node, 1 << 20, &mut payload, &mut headers).map(|()| (payload, headers))
}

fn read(format: Format, (payload, headers): &(Vec<u8>, Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(payload, headers, &mut Writer::new(format, &mut out));
    Document::check(format, &out).unwrap();
    out
}

fn has_header(headers: &[u8], name: &str) -> bool {
    HeadersReader::new(headers).any(|header| header.unwrap().name == name)
}

/// Returns what a MessagePack reader gets: floats of 64 bits.
fn widened(value: &Pack) -> Pack {
    match value {
        Pack::F32(value) => Pack::F64(f64::from(*value)),
        Pack::Array(elements) => Pack::Array(elements.iter().map(widened).collect()),
        Pack::Map(members) => {
            Pack::Map(members.iter().map(|(key, value)| (key.clone(), widened(value))).collect())
        }
        other => other.clone(),
    }
}

/// Returns what a JSON reader gets.
fn without_bytes(value: &Pack) -> Pack {
    use base64::prelude::*;
    match value {
        Pack::Binary(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Pack::from(text),
            Err(_) => lookalike(Pack::from(BASE64_STANDARD.encode(bytes))),
        },
        Pack::Array(elements) => Pack::Array(elements.iter().map(without_bytes).collect()),
        Pack::Map(members) => {
            Pack::Map(members.iter().map(|(key, value)| (key.clone(), without_bytes(value))).collect())
        }
        other => other.clone(),
    }
}

fn has_bytes(value: &Pack) -> bool {
    match value {
        Pack::Binary(_) => true,
        Pack::Array(elements) => elements.iter().any(has_bytes),
        Pack::Map(members) => members.iter().any(|(_, value)| has_bytes(value)),
        _ => false,
    }
}

proptest! {
    #[test]
    fn message_pack_comes_back_as_posted(value in any_pack()) {
        let bytes = packed(&value);
        let stored = stored(node(Format::MessagePack, &bytes)).unwrap();
        prop_assert_eq!(unpacked(&read(Format::MessagePack, &stored)), widened(&value));
        let json: Json = serde_json::from_slice(&read(Format::Json, &stored)).unwrap();
        prop_assert_eq!(json, json_of(&without_bytes(&value)));
        prop_assert!(serde_json::from_slice::<Json>(&stored.0).is_ok());
        prop_assert_eq!(has_header(&stored.1, BINARY), has_bytes(&value));
    }

    #[test]
    fn json_comes_back_byte_by_byte(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        let stored = stored(node(Format::Json, text.as_bytes())).unwrap();
        prop_assert_eq!(&stored.0, text.as_bytes());
        prop_assert_eq!(read(Format::Json, &stored), text.as_bytes());
        prop_assert_eq!(unpacked(&read(Format::MessagePack, &stored)), pack_of(&value));
    }

    #[test]
    fn any_payload_with_any_headers_can_be_read(
        payload in prop_oneof![
            vec(any::<u8>(), 0..40), any_json().prop_map(|value| value.to_string().into_bytes()),
            Just(br#"[{"base64":"QUJD"},{"base64":"/w=="},{"base64":"%"},{"base64":1}]"#.to_vec()),
        ],
        content_type in prop_oneof![Just("application/json"), Just("Application/JSON; charset=utf-8"), Just("text/plain")],
        binary in proptest::option::of(vec(any::<u8>(), 0..9)),
        garbage in vec(any::<u8>(), 0..4),
    ) {
        let mut headers = Vec::new();
        put_header(HeaderRef { name: "Content-Type", value: Some(content_type.as_bytes()) }, &mut headers);
        if let Some(value) = &binary {
            put_header(HeaderRef { name: BINARY, value: Some(value) }, &mut headers);
        }
        headers.extend_from_slice(&garbage);
        let stored = (payload, headers);
        let (json, pack) = (read(Format::Json, &stored), read(Format::MessagePack, &stored));
        if binary.is_none() && content_type != "text/plain" && serde_json::from_slice::<Json>(&stored.0).is_ok() {
            prop_assert_eq!(json, stored.0.trim_ascii());
        } else if content_type == "text/plain" {
            prop_assert_eq!(unpacked(&pack), Pack::Binary(stored.0));
        }
    }
}

#[test]
fn a_message_of_another_protocol_is_bytes() {
    let raw = |payload: &[u8]| (payload.to_vec(), Vec::new());
    assert_eq!(read(Format::Json, &raw(b"5 \"x\"")), br#""5 \"x\"""#);
    assert_eq!(read(Format::Json, &raw(b"\xff\x00")), br#"{"base64":"/wA="}"#);
    assert_eq!(read(Format::Json, &raw(b"")), b"\"\"");
    assert_eq!(unpacked(&read(Format::MessagePack, &raw(b"5"))), Pack::Binary(b"5".to_vec()));
}

#[test]
fn a_claim_of_json_that_is_none_is_bytes() {
    let (_, headers) = stored(node(Format::Json, b"1")).unwrap();
    for payload in [&b"{"[..], b"1 2", b"", b"NaN", b"\"\xff\""] {
        let message = (payload.to_vec(), headers.clone());
        assert_eq!(unpacked(&read(Format::MessagePack, &message)), Pack::Binary(payload.to_vec()));
    }
}

#[test]
fn the_stored_form_is_documented() {
    let value = Pack::Array(vec![
        lookalike(Pack::from("QUJD")),
        Pack::Binary(b"ABC".to_vec()),
        lookalike(Pack::from("no base64")),
        lookalike(Pack::from(1)),
        Pack::Binary(vec![0xff]),
    ]);
    let bytes = packed(&value);
    let message = stored(node(Format::MessagePack, &bytes)).unwrap();
    assert_eq!(
        message.0,
        br#"[{"base64":"QUJD"},{"base64":"QUJD"},{"base64":"no base64"},{"base64":1},{"base64":"/w=="}]"#
    );
    let headers: Vec<_> = HeadersReader::new(&message.1).map(Result::unwrap).collect();
    assert_eq!(
        headers,
        [
            HeaderRef { name: "content-type", value: Some(b"application/json") },
            HeaderRef { name: "millstream-binary", value: Some(&[0, 2]) },
        ]
    );
    assert_eq!(
        read(Format::Json, &message),
        br#"[{"base64":"QUJD"},"ABC",{"base64":"no base64"},{"base64":1},{"base64":"/w=="}]"#
    );
}

#[test]
fn what_json_cannot_represent_is_refused() {
    let key = Pack::Map(vec![(Pack::Binary(b"k".to_vec()), Pack::Nil)]);
    for (value, fault) in [
        (Pack::Ext(-1, vec![0; 4]), BodyFault::Extension),
        (key, BodyFault::BinaryKey),
        (Pack::F64(f64::NAN), BodyFault::NotFinite),
        (Pack::F32(f32::INFINITY), BodyFault::NotFinite),
    ] {
        for value in [value.clone(), Pack::Array(vec![Pack::Nil, value])] {
            let bytes = packed(&value);
            assert_eq!(stored(node(Format::MessagePack, &bytes)), Err(fault), "{value}");
        }
    }
}

#[test]
fn headers_beyond_the_limit_are_refused() {
    let mut elements = vec![lookalike(Pack::from("")); 300];
    elements.push(Pack::Binary(vec![]));
    let bytes = packed(&Pack::Array(elements));
    let (mut payload, mut headers) = (b"p".to_vec(), b"h".to_vec());
    let fault = store(node(Format::MessagePack, &bytes), 400, &mut payload, &mut headers).unwrap_err();
    assert!(matches!(fault, BodyFault::LongHeaders { bytes: 401..600, max: 400 }), "{fault:?}");
    assert!(fault.to_string().ends_with("more than max_headers_bytes = 400"), "{fault}");
    assert_eq!((&payload[..], &headers[..]), (&b"p"[..], &b"h"[..]));
}

#[test]
fn numbers_keep_their_kind() {
    for (text, kind, pack) in [
        ("5.0", Kind::Float, Pack::F64(5.0)),
        ("1e16", Kind::Float, Pack::F64(1e16)),
        ("-0.0", Kind::Float, Pack::F64(-0.0)),
        ("18446744073709551615", Kind::Integer, Pack::from(u64::MAX)),
        ("18446744073709551616", Kind::Integer, Pack::F64(18446744073709551616.0)),
        ("-9223372036854775809", Kind::Integer, Pack::F64(-9223372036854775809.0)),
    ] {
        let posted = node(Format::Json, text.as_bytes());
        assert_eq!(posted.kind(), kind, "{text}");
        let message = stored(posted).unwrap();
        assert_eq!(unpacked(&read(Format::MessagePack, &message)), pack);
        assert_eq!(read(Format::Json, &message), text.as_bytes());
    }
}
