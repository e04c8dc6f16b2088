//! Which certificate a client gets: the one for the name that it asks for, or the first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates by the names that they are valid for. A wildcard stands for one label, the first (RFC
/// 6125, section 6.4.3).
#[derive(Debug)]
pub(super) struct Resolver {
    certificates: Vec<Arc<CertifiedKey>>,
    /// Positions in `certificates`, by name in lower case.
    exact: HashMap<String, Vec<usize>>,
    /// Positions by the part of a wildcard after `*.`.
    wildcards: HashMap<String, Vec<usize>>,
}

impl Resolver {
    /// Creates a resolver for certificates and their names in lower case. The first certificate is the
    /// default.
    pub(super) fn new(certificates: Vec<(Arc<CertifiedKey>, Vec<String>)>) -> Self {
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        let mut all = Vec::new();
        for (position, (certificate, names)) in certificates.into_iter().enumerate() {
            all.push(certificate);
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcards, parent.to_owned()),
                    None => (&mut exact, name),
                };
                map.entry(name).or_insert_with(Vec::new).push(position);
            }
        }
        Self { certificates: all, exact, wildcards }
    }

    /// Returns the certificates, in the order of the settings.
    pub(super) fn certificates(&self) -> &[Arc<CertifiedKey>] {
        &self.certificates
    }

    /// Returns the positions of the certificates for a name, the best first. Empty if there is none.
    fn matching(&self, name: &str) -> impl Iterator<Item = usize> {
        let name = name.to_ascii_lowercase();
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        let positions = |found: Option<&Vec<usize>>| found.cloned().unwrap_or_default().into_iter();
        positions(self.exact.get(&name)).chain(positions(self.wildcards.get(parent)))
    }

    /// Chooses among several certificates for a name the first whose key the client supports. A client that
    /// supports none gets the first, and an alert.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let can_sign = |position: &usize| self.certificates[*position].key.choose_scheme(schemes).is_some();
        let candidates: Vec<usize> = name.map(|name| self.matching(name).collect()).unwrap_or_default();
        let found = candidates.iter().copied().find(can_sign).or_else(|| candidates.first().copied());
        let default = || (0..self.certificates.len()).find(can_sign).unwrap_or(0);
        self.certificates.get(found.unwrap_or_else(default))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs::default_provider;

    fn certified(names: &[&str]) -> (Arc<CertifiedKey>, Vec<String>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &default_provider());
        (Arc::new(certified.unwrap()), names)
    }

    #[test]
    fn names_choose_their_certificate_and_others_get_the_first() {
        let resolver = Resolver::new(vec![
            certified(&["first.example"]),
            certified(&["*.apps.example", "apps.example"]),
            certified(&["one.apps.example"]),
        ]);
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let chosen = |name: Option<&str>| {
            let chosen = resolver.choose(name, &schemes).unwrap();
            resolver.certificates().iter().position(|one| Arc::ptr_eq(one, chosen)).unwrap()
        };
        for (name, position) in [
            ("first.example", 0),
            ("FIRST.example", 0),
            ("two.apps.example", 1),
            ("apps.example", 1),
            ("one.apps.example", 2),
            // A wildcard stands for one label only, and not for none.
            ("a.b.apps.example", 0),
            ("other.example", 0),
            ("example", 0),
            ("", 0),
        ] {
            assert_eq!(chosen(Some(name)), position, "{name}");
        }
        assert_eq!(chosen(None), 0);
        let none = resolver.choose(Some("apps.example"), &[SignatureScheme::ED25519]).unwrap();
        assert!(Arc::ptr_eq(none, &resolver.certificates()[1]), "a client that supports none gets an alert");
    }
}
