//! The two formats of requests and answers.

use serde::{Deserialize, Serialize};

use crate::client::{ClientError, Wire};

/// How deep values of MessagePack may be nested. JSON has the same limit in serde_json.
const NESTING_MAX: usize = 128;

/// The format of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON in text messages.
    Json,
    /// MessagePack in binary messages.
    MsgPack,
}

impl Format {
    /// Appends a value to `out`.
    pub(super) fn write(self, out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), ClientError> {
        let written = match self {
            Self::Json => serde_json::to_writer(out, value).map_err(|error| error.to_string()),
            Self::MsgPack => rmp_serde::encode::write_named(out, value).map_err(|error| error.to_string()),
        };
        written.map_err(|error| ClientError::Failed(format!("a request cannot be encoded: {error}")))
    }

    /// Reads the only value in `bytes`. The error says what is wrong.
    pub(super) fn read<'a, T: Deserialize<'a>>(self, bytes: &'a [u8]) -> Result<T, String> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Self::MsgPack => {
                let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
                from.set_max_depth(NESTING_MAX);
                let value = T::deserialize(&mut from).map_err(|error| error.to_string())?;
                // Reading on fails before the first byte of another value only if there is none.
                match bool::deserialize(&mut from) {
                    Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
                    _ => Err("further bytes follow the value".into()),
                }
            }
        }
    }

    /// Appends a request to what the connection sends.
    pub(super) fn send(self, wire: &mut Wire, request: &[u8]) {
        match self {
            Self::Json => wire.text(request),
            Self::MsgPack => wire.binary(request),
        }
    }
}
