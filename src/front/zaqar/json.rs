//! JSON text (RFC 8259): the check of a document, and walking over text that was checked.

use std::borrow::Cow;

use super::kind::{DEPTH_MAX, Kind, Undecodable};

const EARLY_END: &str = "the text ends early";
/// The number of digits from which a number may be beyond the range of a double.
const DIGITS_CHECKED: usize = 300;

/// Checks a document. Returns its value without blanks around it.
pub fn check(bytes: &[u8]) -> Result<&[u8], Undecodable> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Undecodable { why: "a byte that is not UTF-8", at: error.valid_up_to() });
    }
    let mut checker = Checker { bytes, at: 0 };
    match checker.document() {
        Ok(()) => Ok(bytes.trim_ascii()),
        Err(why) => Err(Undecodable { why, at: checker.at }),
    }
}

struct Checker<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Checker<'_> {
    fn document(&mut self) -> Result<(), &'static str> {
        // The lowest bit says whether the innermost container is a map.
        let (mut maps, mut depth) = (0u128, 0);
        'value: loop {
            self.blank();
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return Err("too many arrays and maps inside each other");
                    }
                    let is_map = open == b'{';
                    maps = maps << 1 | u128::from(is_map);
                    depth += 1;
                    self.at += 1;
                    self.blank();
                    // '{' and '[' are two below the characters that end them.
                    if self.peek() != Some(open + 2) {
                        if is_map {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(_) => self.scalar()?,
                None => return Err(EARLY_END),
            }
            loop {
                self.blank();
                if depth == 0 {
                    return if self.at == self.bytes.len() { Ok(()) } else { Err("text after the value") };
                }
                let is_map = maps & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if is_map {
                            self.blank();
                            self.key()?;
                        }
                        continue 'value;
                    }
                    Some(close @ (b'}' | b']')) if (close == b'}') == is_map => {
                        maps >>= 1;
                        depth -= 1;
                        self.at += 1;
                    }
                    Some(_) => return Err("no comma and no end of the array or map"),
                    None => return Err(EARLY_END),
                }
            }
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn blank(&mut self) {
        self.at = blank(self.bytes, self.at);
    }

    #[inline]
    fn key(&mut self) -> Result<(), &'static str> {
        if self.peek() != Some(b'"') {
            return Err("no text as key");
        }
        self.string()?;
        self.blank();
        if self.peek() != Some(b':') {
            return Err("no colon after a key");
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn scalar(&mut self) -> Result<(), &'static str> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err("no value"),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), &'static str> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        if !rest.starts_with(word.as_bytes()) {
            return Err("no value");
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn string(&mut self) -> Result<(), &'static str> {
        self.at += 1;
        loop {
            self.at = plain(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err("a control character in text"),
                None => return Err(EARLY_END),
            }
        }
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.unit(self.at)? {
                0xd800..0xdc00 => {
                    let next = self.bytes.get(self.at + 6..self.at + 8);
                    if next != Some(b"\\u") || !matches!(self.unit(self.at + 6)?, 0xdc00..0xe000) {
                        return Err("half of a surrogate pair");
                    }
                    self.at += 12;
                }
                0xdc00..0xe000 => return Err("half of a surrogate pair"),
                _ => self.at += 6,
            },
            Some(_) => return Err("an unknown escape"),
            None => return Err(EARLY_END),
        }
        Ok(())
    }

    /// Returns the code unit of the escape at `at`.
    fn unit(&self, at: usize) -> Result<u32, &'static str> {
        let mut unit = 0;
        for index in at + 2..at + 6 {
            let digit = self.bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
            unit = unit << 4 | digit.ok_or("an escape without four hexadecimal digits")?;
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), &'static str> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == begin { Err("a number without digits") } else { Ok(()) }
    }

    #[inline]
    fn number(&mut self) -> Result<(), &'static str> {
        let begin = self.at;
        let mut has_exponent = false;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            has_exponent = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        if has_exponent || self.at - begin > DIGITS_CHECKED {
            let number = std::str::from_utf8(&self.bytes[begin..self.at]).unwrap_or("");
            if !number.parse().is_ok_and(f64::is_finite) {
                self.at = begin;
                return Err("a number beyond the range of a double");
            }
        }
        Ok(())
    }
}

/// Returns the first position from `at` that is no blank.
#[inline]
fn blank(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Returns the first position from `at` with a quote, a backslash or a control character, or the end.
#[inline]
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    // The high bit of each byte that is zero in `word`. Bytes above the first such byte may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let ends = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        let found = (controls | ends) & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

/// Returns the end of the text that begins at `at` with its quote.
#[inline]
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        at = plain(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            _ => return bytes.len(),
        }
    }
}

/// Returns the end of the value at `at`, in checked text.
#[inline]
pub fn skip(bytes: &[u8], mut at: usize) -> usize {
    match bytes.get(at) {
        Some(b'"') => string_end(bytes, at),
        Some(b'{' | b'[') => {
            let mut depth = 0usize;
            while let Some(byte) = bytes.get(at) {
                match byte {
                    b'"' => {
                        at = string_end(bytes, at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth == 1 => return at + 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
            }
            at
        }
        _ => {
            while let Some(b'0'..=b'9' | b'a'..=b'z' | b'.' | b'E' | b'+' | b'-') = bytes.get(at) {
                at += 1;
            }
            at
        }
    }
}

/// Returns where the next value of a container begins, in the rest of its checked text.
#[inline]
pub fn next_value(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' => at += 1,
            b'}' | b']' => return None,
            _ => return Some(at),
        }
    }
}

/// Returns whether the text that ends at `at` is a key, in checked text.
#[inline]
pub fn is_key(bytes: &[u8], at: usize) -> bool {
    bytes.get(blank(bytes, at)) == Some(&b':')
}

/// Returns the kind of a checked value.
#[inline]
pub fn kind(raw: &[u8]) -> Kind {
    match raw.first() {
        Some(b'"') => Kind::Text,
        Some(b'{') => Kind::Map,
        Some(b'[') => Kind::Array,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') | None => Kind::Null,
        Some(_) if raw.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-')) => Kind::Integer,
        Some(_) => Kind::Float,
    }
}

/// Returns the value of an integer, or the nearest `i64`.
pub fn integer(raw: &[u8]) -> Option<i64> {
    if kind(raw) != Kind::Integer {
        return None;
    }
    let nearest = if raw.starts_with(b"-") { i64::MIN } else { i64::MAX };
    Some(std::str::from_utf8(raw).ok()?.parse().unwrap_or(nearest))
}

/// Returns the value of text.
#[inline]
pub fn text(raw: &[u8]) -> Option<Cow<'_, str>> {
    let [b'"', inner @ .., b'"'] = raw else { return None };
    if inner.contains(&b'\\') {
        return serde_json::from_slice(raw).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}
