//! The keys that verify tokens, each with its algorithm.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::compact::{Compact, Header};

/// The most keys of a set. Issuers have two or three.
const KEYS_MAX: usize = 64;

/// The keys of an issuer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::auth) struct KeySet(Vec<Key>);

/// Identifies a key: a digest of its algorithm, its id and itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) struct Thumbprint([u8; 32]);

/// A key, and the only algorithm that it is used with.
#[derive(Clone)]
pub(super) struct Key {
    kid: Option<Box<str>>,
    pub(super) algorithm: Algorithm,
    key: DecodingKey,
    pub(super) thumbprint: Thumbprint,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.thumbprint == other.thumbprint
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {:?})", self.kid, self.algorithm)
    }
}

/// What a set has for a token.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// This key.
    Key(&'a Key),
    /// No key with this id. `None` if the set is empty.
    Unknown(Option<Box<str>>),
    /// The token names no key, and several could be meant.
    Ambiguous,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set (RFC 7517), of which some key must verify signatures.
    pub(in crate::auth) fn read(json: &[u8]) -> Result<Self, String> {
        let keys = Self::published(json)?;
        if keys.is_empty() {
            return Err(
                "the key set has no key of RSA, EC (P-256, P-384) or Ed25519 that verifies signatures".into(),
            );
        }
        Ok(keys)
    }

    /// Reads a JSON Web Key Set. Leaves out keys that verify no signature: for encryption, of other kinds, and
    /// symmetric ones, because whoever can verify with them can also sign. An issuer that has withdrawn all of its
    /// keys publishes a set without any.
    pub(in crate::auth) fn published(json: &[u8]) -> Result<Self, String> {
        let Document { keys } = serde_json::from_slice(json)
            .map_err(|_| "not a JSON Web Key Set, like {\"keys\": [{\"kty\": \"EC\", …}]}")?;
        Ok(Self(keys.into_iter().filter_map(Key::read).take(KEYS_MAX).collect()))
    }

    /// Returns the number of keys.
    pub(in crate::auth) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the set has a key.
    pub(super) fn contains(&self, thumbprint: &Thumbprint) -> bool {
        self.0.iter().any(|key| key.thumbprint == *thumbprint)
    }

    /// Returns whether the set has a key with this id.
    pub(super) fn knows(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Finds the key that a header names. A token without a key's id must fit exactly one.
    pub(super) fn find(&self, header: &Header) -> Found<'_> {
        if self.is_empty() {
            return Found::Unknown(header.kid.clone());
        }
        let is_alike = |key: &&Key| key.algorithm == header.algorithm;
        let Some(kid) = &header.kid else {
            let mut alike = self.0.iter().filter(is_alike);
            return match (alike.next(), alike.next()) {
                (Some(only), None) => Found::Key(only),
                _ => Found::Ambiguous,
            };
        };
        let named = || self.0.iter().filter(|key| key.kid.as_ref() == Some(kid));
        match named().find(is_alike).or_else(|| named().next()) {
            Some(key) => Found::Key(key),
            None => Found::Unknown(Some(kid.clone())),
        }
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
            return None;
        }
        let by_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ][..],
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => return None,
        };
        // A key that does not say its algorithm has the usual one of its kind.
        let algorithm = match jwk.common.key_algorithm {
            None => *by_kind.first()?,
            Some(said) => Algorithm::try_from(said).ok().filter(|said| by_kind.contains(said))?,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let mut digest = Context::new(&SHA256);
        digest.update(&serde_json::to_vec(&(algorithm, &jwk.common.key_id, &jwk.algorithm)).ok()?);
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(digest.finish().as_ref());
        let kid = jwk.common.key_id.map(Into::into);
        Some(Self { kid, algorithm, key, thumbprint: Thumbprint(thumbprint) })
    }

    /// Returns whether the key made the signature of a token.
    pub(super) fn verifies(&self, algorithm: Algorithm, token: &Compact<'_>) -> bool {
        jsonwebtoken::crypto::verify(token.signature, token.message, &self.key, algorithm).unwrap_or(false)
    }
}
