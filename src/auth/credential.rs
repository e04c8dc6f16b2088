//! What a client shows, and the key under which its verdict is remembered.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use crate::base::secret::Secret;
use crate::tls::ClientCertificate;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What a client shows to prove who it is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A bearer token.
    Token(Secret),
    /// A certificate that TLS has verified. It counts only where there is no token.
    Certificate(Arc<ClientCertificate>),
}

/// The key of a credential, by which a verdict is remembered. It reveals nothing about a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Computes keys: SHA-256 of a random text of this process and the credential.
#[derive(Clone)]
pub struct Keyer([u8; 32]);

impl fmt::Debug for Keyer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyer")
    }
}

impl Keyer {
    /// Creates a keyer with another random text. Fails if the system has no random numbers.
    pub fn random() -> Result<Self, Unspecified> {
        let mut salt = [0; 32];
        rand::fill(&mut salt)?;
        Ok(Self(salt))
    }

    /// Creates a keyer for tests.
    pub fn fixed() -> Self {
        Self([7; 32])
    }

    /// Returns the key of a credential.
    pub fn key(&self, credential: &Credential) -> Key {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.0);
        match credential {
            Credential::Token(token) => {
                hash.update(b"t");
                hash.update(token.expose().as_bytes());
            }
            Credential::Certificate(certificate) => {
                hash.update(b"c");
                hash.update(&certificate.fingerprint);
            }
        }
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        Key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::CertificateId;

    #[test]
    fn only_the_clients_own_certificate_makes_its_key() {
        let id = |serial| CertificateId { issuer: Box::new([1]), serial: Box::new([serial]) };
        let certificate = ClientCertificate {
            common_name: None,
            dns_names: Vec::new(),
            uris: Vec::new(),
            not_after: 0,
            fingerprint: [1; 32],
            chain: vec![id(1)],
        };
        let key = |certificate| Keyer::fixed().key(&Credential::Certificate(Arc::new(certificate)));
        let other = ClientCertificate { fingerprint: [2; 32], ..certificate.clone() };
        assert_ne!(key(certificate.clone()), key(other), "of the same issuer and with the same number");
        let longer = ClientCertificate { chain: vec![id(1), id(2)], ..certificate.clone() };
        assert_eq!(key(certificate), key(longer), "with an intermediate one");
    }
}
