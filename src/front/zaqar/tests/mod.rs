//! Tests of the documents, with serde_json and rmpv as references.

mod answers;
mod bodies;
mod documents;
mod requests;

use proptest::collection::vec;
use proptest::prelude::*;
use rmpv::Value as Pack;
use serde_json::Value as Json;

use super::{Document, Format, Node};

fn node(format: Format, bytes: &[u8]) -> Node<'_> {
    Document::check(format, bytes).unwrap().root()
}

fn packed(value: &Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

fn unpacked(mut bytes: &[u8]) -> Pack {
    let value = rmpv::decode::read_value(&mut bytes).unwrap();
    assert!(bytes.is_empty());
    value
}

/// Returns the bytes of a JSON text in a format.
fn encoded(format: Format, text: &str) -> Vec<u8> {
    match format {
        Format::Json => text.as_bytes().to_vec(),
        Format::MessagePack => packed(&pack_of(&serde_json::from_str(text).unwrap())),
    }
}

/// Returns a document as a tree of JSON, from the reference decoders.
fn decoded(format: Format, bytes: &[u8]) -> Json {
    match format {
        Format::Json => serde_json::from_slice(bytes).unwrap(),
        Format::MessagePack => json_of(&unpacked(bytes)),
    }
}

fn pack_of(value: &Json) -> Pack {
    match value {
        Json::Null => Pack::Nil,
        Json::Bool(value) => Pack::Boolean(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => Pack::from(value),
            (None, Some(value)) => Pack::from(value),
            (None, None) => Pack::F64(number.as_f64().unwrap()),
        },
        Json::String(text) => Pack::from(text.as_str()),
        Json::Array(elements) => Pack::Array(elements.iter().map(pack_of).collect()),
        Json::Object(map) => {
            Pack::Map(map.iter().map(|(key, value)| (Pack::from(key.as_str()), pack_of(value))).collect())
        }
    }
}

fn json_of(value: &Pack) -> Json {
    match value {
        Pack::Nil => Json::Null,
        Pack::Boolean(value) => (*value).into(),
        Pack::Integer(number) => {
            number.as_u64().map_or_else(|| number.as_i64().unwrap().into(), |value| value.into())
        }
        Pack::F32(value) => f64::from(*value).into(),
        Pack::F64(value) => (*value).into(),
        Pack::String(text) => text.as_str().unwrap().into(),
        Pack::Array(elements) => elements.iter().map(json_of).collect(),
        Pack::Map(members) => Json::Object(
            members.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), json_of(value))).collect(),
        ),
        Pack::Binary(_) | Pack::Ext(..) => panic!("JSON cannot represent {value}"),
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,40}", "[\"\\\\/\u{0}-\u{1f}é😀]{0,12}", Just("base64".to_owned())]
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), any::<i32>().prop_map(f64::from)]
        .prop_filter("finite", |value| value.is_finite())
}

/// Any JSON. Its numbers are within 64 bits.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        (-300i64..300).prop_map(Json::from),
        any_float().prop_map(Json::from),
        any_text().prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..20).prop_map(Json::from),
            vec((any_text(), inner), 0..20).prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

/// Any MessagePack that can be stored, with many bytes and maps that look like the stored form of bytes.
fn any_pack() -> impl Strategy<Value = Pack> {
    let bytes = prop_oneof![vec(any::<u8>(), 0..40), any_text().prop_map(String::into_bytes)];
    let leaf = prop_oneof![
        any_json().prop_map(|value| pack_of(&value)),
        any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(Pack::F32),
        bytes.prop_map(Pack::Binary),
        "(QUJD|[A-Za-z0-9+/=]{0,8})".prop_map(|text| lookalike(Pack::from(text))),
    ];
    leaf.prop_recursive(4, 40, 18, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..18).prop_map(Pack::Array),
            inner.clone().prop_map(lookalike),
            vec((any_text().prop_map(Pack::from), inner), 0..18).prop_map(Pack::Map),
        ]
    })
}

fn lookalike(value: Pack) -> Pack {
    Pack::Map(vec![(Pack::from("base64"), value)])
}
