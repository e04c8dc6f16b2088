//! Which servers a client trusts, and the certificate that it shows them.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, Error, RootCertStore, SupportedCipherSuite};

use super::insecure::AcceptAll;

/// The application protocol that a client offers (ALPN): WebSocket begins as HTTP/1.1.
const PROTOCOL: &[u8] = b"http/1.1";

/// The servers that a client trusts.
#[derive(Clone, Debug)]
pub enum Roots {
    /// Servers whose certificate one of these authorities has issued for the server's name.
    Authorities(RootCertStore),
    /// Every server. Anyone between the two can read and change everything.
    Everyone,
}

/// The certificate of a client, and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate of the client, followed by those of the authorities between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Returns the ciphers of aws-lc. AES-128 comes before AES-256, because it takes about a tenth less time and
/// nobody can break either.
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_aes_256 =
        |suite: &SupportedCipherSuite| suite.suite().as_str().is_some_and(|name| name.contains("AES_256"));
    let is_chacha =
        |suite: &SupportedCipherSuite| suite.suite().as_str().is_some_and(|name| name.contains("CHACHA20"));
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.tls13().is_none(), is_chacha(suite), is_aes_256(suite)));
    provider
}

/// Creates the configuration of a client. Fails if the key of its identity does not belong to the
/// certificate.
pub fn config(roots: Roots, identity: Option<Identity>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match roots {
        Roots::Authorities(roots) => builder.with_root_certificates(roots),
        Roots::Everyone => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll::new(provider)))
        }
    };
    let mut config = match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A server that issues ECDSA certificates gains nothing from it, and it would skip the check of its
    // certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_1_3_and_aes_128_are_preferred_and_no_suite_is_lost() {
        let names = |provider: &CryptoProvider| {
            let suites = provider.cipher_suites.iter();
            suites.filter_map(|suite| suite.suite().as_str()).collect::<Vec<_>>()
        };
        let (ours, mut theirs) = (names(&provider()), names(&aws_lc_rs::default_provider()));
        assert_eq!(ours[0], "TLS13_AES_128_GCM_SHA256");
        assert_eq!(ours[1..3], ["TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"]);
        let mut sorted = ours;
        sorted.sort();
        theirs.sort();
        assert_eq!(sorted, theirs);
    }
}
