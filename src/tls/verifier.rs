//! Which certificates of clients are worth a verification.
//!
//! A client chooses what it sends next to its own certificate. Verification tries to build a path through all of
//! that, and skips what it cannot read. [`Bounded`] refuses such chains first: with at most
//! [`CLIENT_INTERMEDIATES_MAX`] certificates the work is small, and all of them can be compared with revocation
//! lists later.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::ClientCertificate;

/// The most certificates that a client may send after its own.
pub const CLIENT_INTERMEDIATES_MAX: usize = 4;

/// Refuses chains that are too long, repeat a certificate or contain a malformed one. Asks another verifier
/// about the others.
#[derive(Debug)]
pub(super) struct Bounded(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Bounded {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        client: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let is_repeated = |(at, one): (usize, &CertificateDer<'_>)| intermediates[..at].contains(one);
        if intermediates.len() > CLIENT_INTERMEDIATES_MAX || intermediates.iter().enumerate().any(is_repeated)
        {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if ClientCertificate::read(client, intermediates).is_none() {
            return Err(CertificateError::BadEncoding.into());
        }
        self.0.verify_client_cert(client, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;

    /// Accepts everything, and counts how often it is asked.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl ClientCertVerifier for Counting {
        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn verify_client_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(ClientCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Vec::new()
        }
    }

    /// A CA. All of them have the same name.
    fn ca() -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn long_repeated_and_malformed_chains_are_refused_without_a_verification() {
        let counting = Arc::new(Counting::default());
        let bounded = Bounded(counting.clone());
        let cas: Vec<_> = (0..100).map(|_| ca()).collect();
        let verify = |client: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]| {
            let result = bounded.verify_client_cert(client, intermediates, UnixTime::now());
            (result.is_ok(), counting.0.swap(0, Ordering::Relaxed))
        };
        assert_eq!(verify(&cas[0], &cas[1..=CLIENT_INTERMEDIATES_MAX]), (true, 1));
        assert_eq!(verify(&cas[0], &cas[1..=CLIENT_INTERMEDIATES_MAX + 1]), (false, 0));
        assert_eq!(verify(&cas[0], &cas[1..]), (false, 0));
        assert_eq!(verify(&cas[0], &[cas[1].clone(), cas[2].clone(), cas[1].clone()]), (false, 0));
        let garbage = CertificateDer::from(b"garbage".to_vec());
        let longer = CertificateDer::from([&cas[1][..], b"more"].concat());
        for malformed in [garbage, longer] {
            assert_eq!(verify(&cas[0], std::slice::from_ref(&malformed)), (false, 0));
            assert_eq!(verify(&malformed, &[]), (false, 0));
        }
    }
}
