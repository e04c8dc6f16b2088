//! Which documents are accepted, and reading their values.

use super::super::repr::{is_longer_than, repr_length};
use super::super::{Kind, Writer};
use super::*;

fn is_accepted(format: Format, bytes: &[u8]) -> bool {
    Document::check(format, bytes).is_ok()
}

/// Returns whether the reference accepts bytes as MessagePack.
fn is_msgpack(mut bytes: &[u8]) -> bool {
    fn is_valid(value: &Pack) -> bool {
        match value {
            Pack::String(text) => text.is_str(),
            Pack::Array(elements) => elements.iter().all(is_valid),
            Pack::Map(members) => members.iter().all(|(key, value)| {
                matches!(key, Pack::String(_) | Pack::Binary(_)) && is_valid(key) && is_valid(value)
            }),
            _ => true,
        }
    }
    rmpv::decode::read_value(&mut bytes).is_ok_and(|value| bytes.is_empty() && is_valid(&value))
}

/// Pieces of which most texts are nearly JSON.
fn nearly_json() -> impl Strategy<Value = String> {
    const PIECES: [&str; 52] = [
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"a\":",
        "1",
        "0",
        "-",
        ".",
        "5",
        "e",
        "E",
        "+",
        "true",
        "false",
        "null",
        "NaN",
        "Infinity",
        " ",
        "\n",
        "\t",
        "\r",
        "\u{b}",
        "\u{feff}",
        "é",
        "\\",
        "\\n",
        "\\u00e9",
        "\\ud83d",
        "\\ude00",
        "\\ud83d\\ude00",
        "\\u12g4",
        "\\x",
        "/",
        "'",
        "\u{0}",
        "\u{1f}",
        "[]",
        "{}",
        "[1]",
        "{\"a\":1}",
        "1e999",
        "-0",
        "01",
        "1.",
        "abcdefgh",
        "\u{7f}",
        "99999999999999999999",
    ];
    vec(proptest::sample::select(&PIECES[..]), 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn json_is_accepted_as_by_serde_json(text in prop_oneof![
        nearly_json(), nearly_json().prop_map(|text| format!("[\"{text}\"]")),
        nearly_json().prop_map(|text| format!("{{\"k\":[{text}]}}")),
    ]) {
        let reference = serde_json::from_str::<Json>(&text);
        prop_assert_eq!(is_accepted(Format::Json, text.as_bytes()), reference.is_ok(), "{:?}", reference);
    }

    #[test]
    fn json_of_any_bytes_is_accepted_as_by_serde_json(
        bytes in vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(0xc3), Just(0xa9)], 0..12),
    ) {
        let quoted = [b"\"", &bytes[..], b"\""].concat();
        for bytes in [bytes, quoted] {
            prop_assert_eq!(is_accepted(Format::Json, &bytes), serde_json::from_slice::<Json>(&bytes).is_ok());
        }
    }

    #[test]
    fn message_pack_is_accepted_as_by_rmpv(bytes in vec(prop_oneof![
        any::<u8>(), 0x80u8..0x84, 0x90u8..0x94, 0xa0u8..0xa4, 0xc0u8..0xe0, 0u8..8, Just(b'a'),
    // The reference takes the unused byte for null.
    ].prop_map(|byte| if byte == 0xc1 { 0xc0 } else { byte }), 0..16)) {
        prop_assert_eq!(is_accepted(Format::MessagePack, &bytes), is_msgpack(&bytes));
    }
}

proptest! {
    #[test]
    fn values_are_read_as_by_serde_json(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = format!(" {}\n", text.unwrap());
        compare(node(Format::Json, text.as_bytes()), &value);
        compare(node(Format::MessagePack, &packed(&pack_of(&value))), &value);
    }

    #[test]
    fn values_survive_both_formats(value in any_json()) {
        for (from, to) in [(Format::Json, Format::MessagePack), (Format::MessagePack, Format::Json)] {
            let bytes = encoded(from, &value.to_string());
            let mut out = Vec::new();
            Writer::new(to, &mut out).node(node(from, &bytes));
            prop_assert_eq!(&decoded(to, &out), &value);
            prop_assert!(is_accepted(to, &out));
            if to == Format::MessagePack {
                prop_assert_eq!(out, packed(&pack_of(&value)), "as short as the reference");
            }
        }
    }
}

fn compare(node: Node<'_>, value: &Json) {
    assert_eq!(node.to_json_value().as_ref(), Some(value));
    assert_eq!(node.as_text().as_deref(), value.as_str());
    assert_eq!(node.as_bool(), value.as_bool());
    assert_eq!(node.is_null(), value.is_null());
    let integer = value.as_i64().or(value.as_u64().map(|_| i64::MAX));
    assert_eq!(node.as_integer(), integer);
    let is_float = value.is_f64();
    assert_eq!(node.as_float(), value.as_f64().filter(|_| is_float));
    let kind = match value {
        Json::Null => Kind::Null,
        Json::Bool(_) => Kind::Bool,
        Json::Number(_) if is_float => Kind::Float,
        Json::Number(_) => Kind::Integer,
        Json::String(_) => Kind::Text,
        Json::Array(_) => Kind::Array,
        Json::Object(_) => Kind::Map,
    };
    assert_eq!(node.kind(), kind);
    let elements: Vec<_> = node.elements().collect();
    assert_eq!(elements.len(), value.as_array().map_or(0, Vec::len));
    elements.iter().enumerate().for_each(|(index, element)| compare(*element, &value[index]));
    let members: Vec<_> = node.members().collect();
    assert_eq!(members.len(), value.as_object().map_or(0, |map| map.len()));
    for (key, member) in members {
        compare(member, &value[&*key]);
        let [found, none] = node.named([&key, "no such key of any map"]);
        assert_eq!(found.map(Node::raw), Some(member.raw()));
        assert!(none.is_none());
    }
}

#[test]
fn integers_are_strict() {
    for (text, integer) in [
        ("5", Some(5)),
        ("-5", Some(-5)),
        ("-0", Some(0)),
        ("5.0", None),
        ("5e0", None),
        ("\"5\"", None),
        ("true", None),
        ("null", None),
        ("9223372036854775807", Some(i64::MAX)),
        ("9223372036854775808", Some(i64::MAX)),
        ("-99999999999999999999999999", Some(i64::MIN)),
    ] {
        assert_eq!(node(Format::Json, text.as_bytes()).as_integer(), integer, "{text}");
    }
    for (value, integer) in [
        (Pack::from(u64::MAX), Some(i64::MAX)),
        (Pack::from(i64::MIN), Some(i64::MIN)),
        (Pack::F64(5.0), None),
        (Pack::Boolean(true), None),
        (Pack::from("5"), None),
        (Pack::Binary(vec![5]), None),
    ] {
        assert_eq!(node(Format::MessagePack, &packed(&value)).as_integer(), integer, "{value}");
    }
}

#[test]
fn of_members_with_the_same_name_the_last_counts() {
    let text = br#"{"a":1,"b":2,"\u0061":3,"b":{"a":9}}"#;
    let [a, b] = node(Format::Json, text).named(["a", "b"]);
    assert_eq!(a.unwrap().as_integer(), Some(3));
    assert_eq!(b.unwrap().raw(), br#"{"a":9}"#);
    assert_eq!(node(Format::Json, text).to_json_map().unwrap()["a"], 3);
}

#[test]
fn keys_that_are_bytes_are_no_names() {
    let map = Pack::Map(vec![
        (Pack::Binary(b"action".to_vec()), Pack::from("queue_list")),
        (Pack::from("x"), Pack::from(1)),
    ]);
    let bytes = packed(&map);
    let root = node(Format::MessagePack, &bytes);
    assert!(root.named(["action"])[0].is_none());
    assert_eq!(root.members().count(), 1);
    assert_eq!(root.to_json_map(), None);
}

#[test]
fn refusals_say_what_and_where() {
    for (format, bytes, text) in [
        (Format::Json, &b""[..], "at byte 0: the text ends early"),
        (Format::Json, b"\xef\xbb\xbf{}", "at byte 0: no value"),
        (Format::Json, b"{} x", "at byte 3: text after the value"),
        (Format::Json, b"[NaN]", "at byte 1: no value"),
        (Format::Json, b"[-Infinity]", "at byte 2: a number without digits"),
        (Format::Json, b"[1e400]", "at byte 1: a number beyond the range of a double"),
        (Format::Json, br#"["\ud800"]"#, "at byte 2: half of a surrogate pair"),
        (Format::Json, br#"["\udc00"]"#, "at byte 2: half of a surrogate pair"),
        (Format::Json, b"\"a\xff\"", "at byte 2: a byte that is not UTF-8"),
        (Format::Json, b"\"a\nb\"", "at byte 2: a control character in text"),
        (Format::Json, b"{1:2}", "at byte 1: no text as key"),
        (Format::MessagePack, b"", "at byte 0: the message ends early"),
        (Format::MessagePack, b"\xc1", "at byte 0: the byte 0xc1"),
        (Format::MessagePack, b"\x80\x80", "at byte 1: bytes after the value"),
        (Format::MessagePack, b"\x81\x01\x02", "at byte 1: a key that is neither text nor bytes"),
        (Format::MessagePack, b"\xa1\xff", "at byte 0: text that is not UTF-8"),
        (Format::MessagePack, b"{\"action\": 1}", "at byte 1: bytes after the value"),
        (Format::MessagePack, b"\xdf\xff\xff\xff\xff\xa0", "at byte 6: the message ends early"),
        (Format::MessagePack, b"\xc6\xff\xff\xff\xff", "at byte 0: the message ends early"),
    ] {
        assert_eq!(Document::check(format, bytes).unwrap_err().to_string(), text, "{bytes:?}");
    }
}

#[test]
fn documents_may_be_as_deep_as_serde_json_reads() {
    use super::super::document::DEPTH_MAX;
    for depth in [DEPTH_MAX, DEPTH_MAX + 1] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let repeats = depth / open.matches(['[', '{']).count();
            let inner = if repeats * open.matches(['[', '{']).count() < depth { "[]" } else { "1" };
            let text = open.repeat(repeats) + inner + &close.repeat(repeats);
            let expected = depth == DEPTH_MAX;
            assert_eq!(is_accepted(Format::Json, text.as_bytes()), expected, "{text}");
            assert_eq!(serde_json::from_str::<Json>(&text).is_ok(), expected, "{text}");
        }
        let mut pack = Pack::Nil;
        (0..depth).for_each(|_| pack = Pack::Array(vec![std::mem::replace(&mut pack, Pack::Nil)]));
        assert_eq!(is_accepted(Format::MessagePack, &packed(&pack)), depth == DEPTH_MAX);
    }
}

/// Every pass over these takes time linear in their length, so this takes far less than a second.
#[test]
fn hostile_documents_cost_little() {
    const MEGA: usize = 1 << 20;
    for refused in ["[".repeat(4 * MEGA), "{\"\":".repeat(MEGA), "[{\"\":".repeat(MEGA), "9".repeat(MEGA)] {
        assert!(!is_accepted(Format::Json, refused.as_bytes()));
    }
    for refused in
        [vec![0x91; 4 * MEGA], [0x81, 0xa0].repeat(MEGA), [0xdd, 0xff, 0xff, 0xff, 0xff].repeat(MEGA)]
    {
        assert!(!is_accepted(Format::MessagePack, &refused));
    }
    let keys = "\"a\":1,".repeat(MEGA);
    let deep = "[".repeat(120) + &"[],".repeat(MEGA / 4) + "[]" + &"]".repeat(120);
    for text in [
        format!("{{{keys}\"b\":2}}"),
        format!("[{}]", "0.1,".repeat(MEGA) + "0." + &"1".repeat(MEGA)),
        format!("\"{}\"", "\\u00e9".repeat(MEGA)),
        format!("\"{}\"", "\\\\".repeat(MEGA)),
        deep,
    ] {
        let root = node(Format::Json, text.as_bytes());
        let mut out = Vec::new();
        Writer::new(Format::MessagePack, &mut out).node(root);
        let pack = node(Format::MessagePack, &out);
        assert_eq!(pack.elements().count(), root.elements().count());
        assert_eq!(root.named(["b"])[0].is_some(), text.starts_with('{'));
        let length = repr_length(root);
        assert!(is_longer_than(root, length - 1) && !is_longer_than(root, length));
        let mut back = Vec::new();
        Writer::new(Format::Json, &mut back).node(pack);
        assert!(is_accepted(Format::Json, &back));
    }
}

#[test]
fn sizes_are_those_of_python() {
    for (text, python) in [
        (r#"[{"body": "x", "ttl": 60}]"#, "[{'body': 'x', 'ttl': 60}]"),
        (
            r#"[{"body":"x","ttl":60},{"body":[null,true,false,{}],"ttl":1.5}]"#,
            "[{'body': 'x', 'ttl': 60}, {'body': [None, True, False, {}], 'ttl': 1.5}]",
        ),
        (r#"["a\"b", "a'b", "a'b\"c", "\n\\\u0001"]"#, r#"['a"b', "a'b", 'a\'b"c', '\n\\\x01']"#),
        ("[]", "[]"),
        ("{\"é\": \"éé\", \"\\u00e9\": -1}", "{'é': 'éé', 'é': -1}"),
    ] {
        let expected = python.chars().count();
        assert_eq!(repr_length(node(Format::Json, text.as_bytes())), expected, "{text}");
    }
    let pack = Pack::Array(vec![
        Pack::Binary(b"a\0\n\xff".to_vec()),
        Pack::Ext(5, vec![1]),
        Pack::from(-1000),
        Pack::F64(0.5),
    ]);
    let python = r"[b'a\x00\n\xff', ExtType(code=5, data=b'\x01'), -1000, 0.5]";
    let length = repr_length(node(Format::MessagePack, &packed(&pack)));
    assert!((python.len()..python.len() + 4).contains(&length), "{length}");
}

proptest! {
    #[test]
    fn short_values_need_not_be_counted(value in any_pack()) {
        let bytes = packed(&value);
        let root = node(Format::MessagePack, &bytes);
        let length = repr_length(root);
        prop_assert!(!is_longer_than(root, length));
        prop_assert!(length == 0 || is_longer_than(root, length - 1));
    }

    #[test]
    fn short_json_need_not_be_counted(value in any_json()) {
        let text = value.to_string();
        let root = node(Format::Json, text.as_bytes());
        let length = repr_length(root);
        prop_assert!(!is_longer_than(root, length) && is_longer_than(root, length - 1));
    }
}
