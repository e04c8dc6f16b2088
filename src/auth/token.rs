//! Tokens of the server's own: 256 random bits. A file lists their digests, never the tokens.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::prelude::*;

use crate::base::secret::Secret;

/// How every token of the server's own begins, so that people and scanners recognize one.
pub const PREFIX: &str = "ms_";

/// The SHA-256 digest of a token. A token has 256 random bits, so that nobody can guess it from its digest, and a
/// slow hash would only cost time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of a token.
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Parses `sha256:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii())?;
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Creates a token. Fails if the system has no random numbers.
pub fn new() -> Result<Secret, Unspecified> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    Ok(Secret::new(&format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))))
}

/// The longest name of a token.
const NAME_CHARS_MAX: usize = 64;

/// Refuses what cannot be the name of a token's owner.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
    if (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(format!("{name:?} is not a name: 1 to {NAME_CHARS_MAX} of A-Z, a-z, 0-9, _, -, . and @"))
}

/// Returns the lines of a file of principals or tokens, with their numbers from 1, without empty ones and comments
/// (`#`). Refuses a file that may be half written: an empty one, or one whose last line has no line break. A file of comments
/// lists nobody.
pub fn lines(text: &str) -> Result<Vec<(usize, &str)>, &'static str> {
    if text.is_empty() {
        return Err("the file is empty, so it may be half written; a line with a # lists nobody");
    }
    if !text.ends_with('\n') {
        return Err("the last line has no line break, so the file may be half written");
    }
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(|(index, line)| (index + 1, line)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_their_digests_are_read_as_shown() {
        let (one, other) = (new().unwrap(), new().unwrap());
        assert_ne!(one, other);
        assert!(one.expose().starts_with(PREFIX) && one.expose().len() == 46);
        let digest = Digest::of(one.expose());
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        for bad in ["", "sha256:", "sha256:00", &format!("sha256:{}", "g".repeat(64)), &"0".repeat(71)] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_that_may_be_half_written_is_refused() {
        assert_eq!(lines("# comment\n\na b\n").unwrap(), [(3, "a b")]);
        assert!(lines("a b").is_err() && lines("").is_err() && lines("# only").is_err());
        assert_eq!(lines("# none\n").unwrap(), []);
    }
}
