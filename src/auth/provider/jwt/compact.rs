//! The parts of a token (RFC 7515, compact serialization), and which headers are accepted.

use base64::prelude::*;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::claims::object;
use crate::auth::provider::TOKEN_BYTES_MAX;

/// The longest id of a key, in bytes.
const KID_BYTES_MAX: usize = 256;

/// Headers that name keys or change what is signed. The keys come from the configuration alone, and no extension is
/// understood.
const REFUSED: [&str; 8] = ["jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"];

/// Types of tokens (`typ`) that prove who the bearer is. Others, such as logout tokens, do not.
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

/// The parts of a token. Nothing is verified yet.
#[derive(Debug)]
pub(super) struct Compact<'a> {
    pub(super) header: Header,
    /// The claims, as JSON.
    pub(super) payload: Vec<u8>,
    /// What is signed.
    pub(super) message: &'a [u8],
    /// The signature, in base64.
    pub(super) signature: &'a str,
}

/// What counts of the header of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the token says of its algorithm. It is compared with that of the key, and never used.
    pub(super) algorithm: Algorithm,
    /// The id of the key.
    pub(super) kid: Option<Box<str>>,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is no JSON Web Token.
    OtherFormat,
    /// It is one with a header that is not accepted.
    Refused,
}

impl<'a> Compact<'a> {
    /// Splits a token into its parts.
    pub(super) fn parse(token: &'a str) -> Result<Self, Fault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Fault::OtherFormat);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Fault::OtherFormat)?;
        let (header, payload) = message.split_once('.').ok_or(Fault::OtherFormat)?;
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| Fault::OtherFormat);
        let header = object(&decode(header)?).ok_or(Fault::OtherFormat)?;
        let payload = decode(payload)?;
        let header = Header::read(&header).ok_or(Fault::Refused)?;
        Ok(Self { header, payload, message: message.as_bytes(), signature })
    }
}

impl Header {
    fn read(header: &Map<String, Value>) -> Option<Self> {
        if REFUSED.iter().any(|name| header.contains_key(*name)) {
            return None;
        }
        let is_accepted =
            |kind: &Value| kind.as_str().is_some_and(|kind| TYPES.contains(&&*kind.to_ascii_lowercase()));
        if !header.get("typ").is_none_or(is_accepted) {
            return None;
        }
        let algorithm = header.get("alg")?.as_str()?.parse().ok()?;
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().filter(|kid| kid.len() <= KID_BYTES_MAX)?.into()),
        };
        Some(Self { algorithm, kid })
    }
}
