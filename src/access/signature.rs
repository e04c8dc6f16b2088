//! Pre-signed access: a signature gives whoever shows it access to some paths of a project, in some ways, until a time.
//!
//! The signature is an HMAC (RFC 2104) with SHA-256, in hexadecimal digits. Its text is that of OpenStack Zaqar: paths,
//! methods, project and end, with a backslash and an n between them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};

use crate::base::clock::rfc3339;
use crate::base::millis::UnixMillis;

/// The shortest key, in bytes.
const KEY_BYTES_MIN: usize = 16;

/// Between the parts of the signed text: these two characters, no line break.
const BETWEEN: &str = "\\n";

/// The key that makes and checks signatures.
#[derive(Clone)]
pub struct SigningKey(Arc<Key>);

/// What a signature permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission<'a> {
    /// The paths, like `/v2/queues/orders/messages`.
    pub paths: Vec<&'a str>,
    /// The methods: `GET`, `POST`, `DELETE`.
    pub methods: Vec<&'a str>,
    /// The project.
    pub project: &'a str,
    /// When it ends.
    pub expires: UnixMillis,
}

impl SigningKey {
    /// Makes a key of the bytes of a secret. Refuses one that is easy to guess.
    pub fn new(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < KEY_BYTES_MIN {
            return Err(format!("the key has {} bytes; at least {KEY_BYTES_MIN} are needed", secret.len()));
        }
        Ok(Self::of_any(secret))
    }

    fn of_any(secret: &[u8]) -> Self {
        Self(Arc::new(Key::new(HMAC_SHA256, secret)))
    }

    /// Returns the signature of a permission. `None` if it has no text, see [`Permission::text`].
    pub fn sign(&self, permission: &Permission<'_>) -> Option<String> {
        let tag = hmac::sign(&self.0, permission.text()?.as_bytes());
        Some(tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Returns whether a signature is that of the permission. Takes the same time wherever they differ.
    pub fn verifies(&self, permission: &Permission<'_>, signature: &str) -> bool {
        match (permission.text(), read_hex(signature)) {
            (Some(text), Some(tag)) => hmac::verify(&self.0, text.as_bytes(), &tag).is_ok(),
            _ => false,
        }
    }
}

impl Permission<'_> {
    /// Returns the end as it is signed and sent: UTC, in whole seconds, without a zone.
    pub fn ends(&self) -> Option<String> {
        rfc3339(self.expires).map(|text| text.trim_end_matches('Z').to_owned())
    }

    /// Returns the text that is signed. `None` if a part contains what stands between two parts.
    fn text(&self) -> Option<String> {
        let sorted = |parts: &[&str]| {
            let mut parts = parts.to_vec();
            parts.sort_unstable();
            let is_plain = parts.iter().all(|part| !part.contains([',', '\\']));
            is_plain.then(|| parts.join(","))
        };
        let (paths, methods) = (sorted(&self.paths)?, sorted(&self.methods)?);
        let project = Some(self.project).filter(|project| !project.contains('\\'))?;
        Some([&paths, &methods, project, &self.ends()?].join(BETWEEN))
    }
}

/// Two keys are equal if they sign alike.
impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        hmac::sign(&self.0, b"").as_ref() == hmac::sign(&other.0, b"").as_ref()
    }
}

impl Eq for SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(hidden)")
    }
}

/// Reads lower-case hexadecimal digits.
fn read_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::read_iso8601;

    fn permission() -> Permission<'static> {
        Permission {
            paths: vec!["/v2/queues/q/messages", "/v2/queues/q/claims"],
            methods: vec!["POST", "GET"],
            project: "p1",
            expires: read_iso8601("2030-01-01T00:00:00").unwrap(),
        }
    }

    #[test]
    fn a_signature_is_that_of_the_official_server() {
        let key = SigningKey::of_any(b"secret");
        let signature = "945f89acfaa43430d210a583e88f4d0a59e735dcb30fcbe6eeda55c4b36f95bb";
        assert_eq!(key.sign(&permission()).as_deref(), Some(signature));
        assert!(key.verifies(&permission(), signature));
        assert!(!key.verifies(&permission(), &signature.to_uppercase()), "lower case only");
        for bad in ["", "94", &signature[1..], "zz", &format!("{signature}00"), "ü"] {
            assert!(!key.verifies(&permission(), bad), "{bad}");
        }
        assert!(!SigningKey::of_any(b"Secret").verifies(&permission(), signature));
    }

    #[test]
    fn a_signature_is_good_for_nothing_else() {
        let key = SigningKey::of_any(b"secret");
        let signature = key.sign(&permission()).unwrap();
        for other in [
            Permission { paths: vec!["/v2/queues/q/messages"], ..permission() },
            Permission { paths: vec!["/v2/queues/r/messages", "/v2/queues/q/claims"], ..permission() },
            Permission { methods: vec!["GET"], ..permission() },
            Permission { methods: vec!["POST", "GET", "DELETE"], ..permission() },
            Permission { project: "p2", ..permission() },
            Permission { expires: read_iso8601("2030-01-01T00:00:01").unwrap(), ..permission() },
        ] {
            assert!(!key.verifies(&other, &signature), "{other:?}");
        }
        let shifted = Permission {
            paths: vec!["/v2/queues/q/claims"],
            methods: vec!["/v2/queues/q/messages\\nGET", "POST"],
            ..permission()
        };
        assert_eq!(key.sign(&shifted), None, "a part that looks like several has no text");
    }

    #[test]
    fn a_short_key_is_refused_and_no_key_is_shown() {
        assert!(SigningKey::new(b"fifteen bytes..").unwrap_err().contains("16"));
        let key = SigningKey::new(b"sixteen bytes...").unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(hidden)");
        assert!(key == SigningKey::of_any(b"sixteen bytes...") && key != SigningKey::of_any(b"other"));
    }
}
