//! MessagePack: the check of a document, and walking over bytes that were checked.

use serde_json::{Map, Number, Value};

use super::kind::{DEPTH_MAX, Kind, Undecodable};

/// The byte of null.
pub const NIL: u8 = 0xc0;
/// The byte of false.
pub const FALSE: u8 = 0xc2;
/// The byte of true.
pub const TRUE: u8 = 0xc3;
/// The only byte that begins no value.
const UNUSED: u8 = 0xc1;
const EARLY_END: &str = "the message ends early";

/// The beginning of a value.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The kind.
    pub kind: Kind,
    /// The number of bytes before the data or the first item.
    pub bytes: usize,
    /// The number of bytes of data.
    pub data: usize,
    /// How many values follow as its items: elements, or keys and values.
    pub items: usize,
}

/// Returns the big-endian number of `N` bytes at `at`.
#[inline]
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk::<N>()?;
    Some(field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Reads the beginning of a value. `None` if it ends early or begins with the unused byte.
#[inline]
pub fn head(bytes: &[u8]) -> Option<Head> {
    let first = *bytes.first()?;
    let plain = |kind, data| Some(Head { kind, bytes: 1, data, items: 0 });
    let sized = |kind, length: usize, data: Option<u64>| {
        Some(Head { kind, bytes: 1 + length, data: data? as usize, items: 0 })
    };
    let list = |kind, length: usize, items: Option<u64>| {
        let each = if kind == Kind::Map { 2 } else { 1 };
        Some(Head { kind, bytes: 1 + length, data: 0, items: items? as usize * each })
    };
    let extension = |length: usize, data: Option<u64>| {
        Some(Head { kind: Kind::Extension, bytes: 2 + length, data: data? as usize, items: 0 })
    };
    match first {
        0x00..=0x7f | 0xe0..=0xff => plain(Kind::Integer, 0),
        0x80..=0x8f => list(Kind::Map, 0, Some(u64::from(first & 0xf))),
        0x90..=0x9f => list(Kind::Array, 0, Some(u64::from(first & 0xf))),
        0xa0..=0xbf => plain(Kind::Text, usize::from(first & 0x1f)),
        NIL => plain(Kind::Null, 0),
        UNUSED => None,
        FALSE | TRUE => plain(Kind::Bool, 0),
        0xc4 => sized(Kind::Binary, 1, number::<1>(bytes, 1)),
        0xc5 => sized(Kind::Binary, 2, number::<2>(bytes, 1)),
        0xc6 => sized(Kind::Binary, 4, number::<4>(bytes, 1)),
        0xc7 => extension(1, number::<1>(bytes, 1)),
        0xc8 => extension(2, number::<2>(bytes, 1)),
        0xc9 => extension(4, number::<4>(bytes, 1)),
        0xca => plain(Kind::Float, 4),
        0xcb => plain(Kind::Float, 8),
        0xcc..=0xcf => plain(Kind::Integer, 1 << (first - 0xcc)),
        0xd0..=0xd3 => plain(Kind::Integer, 1 << (first - 0xd0)),
        0xd4..=0xd8 => extension(0, Some(1 << (first - 0xd4))),
        0xd9 => sized(Kind::Text, 1, number::<1>(bytes, 1)),
        0xda => sized(Kind::Text, 2, number::<2>(bytes, 1)),
        0xdb => sized(Kind::Text, 4, number::<4>(bytes, 1)),
        0xdc => list(Kind::Array, 2, number::<2>(bytes, 1)),
        0xdd => list(Kind::Array, 4, number::<4>(bytes, 1)),
        0xde => list(Kind::Map, 2, number::<2>(bytes, 1)),
        0xdf => list(Kind::Map, 4, number::<4>(bytes, 1)),
    }
}

/// Checks a document.
pub fn check(bytes: &[u8]) -> Result<&[u8], Undecodable> {
    let mut at = 0;
    match check_from(bytes, &mut at) {
        Ok(()) => Ok(bytes),
        Err(why) => Err(Undecodable { why, at }),
    }
}

fn check_from(bytes: &[u8], at: &mut usize) -> Result<(), &'static str> {
    // How many items of each open container follow, and whether it is a map.
    let mut open = [(0usize, false); DEPTH_MAX];
    let mut depth = 0usize;
    loop {
        let rest = bytes.get(*at..).unwrap_or(&[]);
        let Some(head) = head(rest) else {
            return Err(if rest.first() == Some(&UNUSED) { "the byte 0xc1" } else { EARLY_END });
        };
        let data = rest.get(head.bytes..).and_then(|rest| rest.get(..head.data)).ok_or(EARLY_END)?;
        if head.kind == Kind::Text && std::str::from_utf8(data).is_err() {
            return Err("text that is not UTF-8");
        }
        if let Some((left, true)) = depth.checked_sub(1).map(|top| open[top])
            && left % 2 == 0
            && !matches!(head.kind, Kind::Text | Kind::Binary)
        {
            return Err("a key that is neither text nor bytes");
        }
        *at += head.bytes + head.data;
        if matches!(head.kind, Kind::Array | Kind::Map) {
            let Some(slot) = open.get_mut(depth) else {
                return Err("too many arrays and maps inside each other");
            };
            *slot = (head.items, head.kind == Kind::Map);
            depth += 1;
        } else if depth > 0 {
            open[depth - 1].0 -= 1;
        }
        while depth > 0 && open[depth - 1].0 == 0 {
            depth -= 1;
            if depth > 0 {
                open[depth - 1].0 -= 1;
            }
        }
        if depth == 0 {
            return if *at == bytes.len() { Ok(()) } else { Err("bytes after the value") };
        }
    }
}

/// Returns the length of the value that checked bytes begin with.
#[inline]
pub fn skip(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0, 1usize);
    while left > 0 {
        let head = head(bytes.get(at..)?)?;
        at += head.bytes + head.data;
        left = left - 1 + head.items;
    }
    Some(at)
}

/// Returns the data of a checked value.
#[inline]
pub fn data(raw: &[u8]) -> &[u8] {
    head(raw).and_then(|head| raw.get(head.bytes..head.bytes + head.data)).unwrap_or(&[])
}

/// Returns the data of checked text.
#[inline]
pub fn text(raw: &[u8]) -> Option<&[u8]> {
    let head = head(raw).filter(|head| head.kind == Kind::Text)?;
    raw.get(head.bytes..head.bytes + head.data)
}

/// Returns the value of an integer.
pub fn integer(raw: &[u8]) -> Option<i128> {
    let first = *raw.first()?;
    match first {
        0x00..=0x7f => Some(i128::from(first)),
        0xe0..=0xff => Some(i128::from(first as i8)),
        0xcc => number::<1>(raw, 1).map(i128::from),
        0xcd => number::<2>(raw, 1).map(i128::from),
        0xce => number::<4>(raw, 1).map(i128::from),
        0xcf => number::<8>(raw, 1).map(i128::from),
        0xd0 => number::<1>(raw, 1).map(|value| i128::from(value as i8)),
        0xd1 => number::<2>(raw, 1).map(|value| i128::from(value as i16)),
        0xd2 => number::<4>(raw, 1).map(|value| i128::from(value as i32)),
        0xd3 => number::<8>(raw, 1).map(|value| i128::from(value as i64)),
        _ => None,
    }
}

/// Returns the value of a float.
pub fn float(raw: &[u8]) -> Option<f64> {
    match raw.first()? {
        0xca => number::<4>(raw, 1).map(|bits| f64::from(f32::from_bits(bits as u32))),
        0xcb => number::<8>(raw, 1).map(f64::from_bits),
        _ => None,
    }
}

/// Reads checked bytes as a tree of values. Its recursion is as deep as the document.
#[derive(Debug)]
pub struct Tree<'a>(pub &'a [u8]);

impl Tree<'_> {
    /// Reads a value. `None` if it contains what JSON cannot represent.
    pub fn value(&mut self) -> Option<Value> {
        let raw = self.0;
        let head = head(raw)?;
        self.0 = raw.get(head.bytes + head.data..)?;
        Some(match head.kind {
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(raw.first() == Some(&TRUE)),
            Kind::Integer => Value::Number(Number::from_i128(integer(raw)?)?),
            Kind::Float => Value::Number(Number::from_f64(float(raw)?)?),
            Kind::Text => Value::String(std::str::from_utf8(data(raw)).ok()?.to_owned()),
            Kind::Binary | Kind::Extension => return None,
            Kind::Array => Value::Array((0..head.items).map(|_| self.value()).collect::<Option<_>>()?),
            Kind::Map => {
                let mut map = Map::new();
                for _ in 0..head.items / 2 {
                    let Value::String(key) = self.value()? else { return None };
                    map.insert(key, self.value()?);
                }
                Value::Object(map)
            }
        })
    }
}
