//! What the server reads from certificates: names, expiry, and the identity of a client.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Identifies a certificate among all that exist (RFC 5280, section 4.1.2.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateId {
    /// The name of the issuer, as in the certificate (DER).
    pub issuer: Box<[u8]>,
    /// The serial number, as in the certificate.
    pub serial: Box<[u8]>,
}

/// The client that a verified certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of the subject.
    pub common_name: Option<String>,
    /// The DNS names of the subject's alternative names, in lower case.
    pub dns_names: Vec<String>,
    /// The URIs of the subject's alternative names.
    pub uris: Vec<String>,
    /// When the client's certificate expires, in seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of the client's certificate (DER).
    pub fingerprint: [u8; 32],
    /// The client's certificate, followed by the intermediate ones that it sent.
    pub chain: Vec<CertificateId>,
}

impl ClientCertificate {
    /// Reads the certificate of a client, and the intermediate ones. Returns `None` if one is malformed.
    pub(super) fn read(client: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Self> {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, client).as_ref());
        let client = &parse(client)?;
        let intermediates = intermediates.iter().map(|one| parse(one).as_ref().map(id));
        let chain = std::iter::once(Some(id(client))).chain(intermediates).collect::<Option<_>>()?;
        let common_name = client.subject().iter_common_name().next();
        Some(Self {
            common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
            dns_names: dns_names(client),
            uris: alternative_names(client, |name| match name {
                GeneralName::URI(name) => Some((*name).to_owned()),
                _ => None,
            }),
            not_after: client.validity().not_after.timestamp(),
            fingerprint,
            chain,
        })
    }
}

/// The parts of a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The DNS names, in lower case.
    pub(super) dns_names: Vec<String>,
    /// When it becomes valid, in seconds since 1970.
    pub(super) not_before: i64,
    /// When it expires, in seconds since 1970.
    pub(super) not_after: i64,
}

impl Facts {
    /// Reads a certificate. Returns `None` if it is malformed.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = parse(certificate)?;
        let validity = parsed.validity();
        Some(Self {
            dns_names: dns_names(&parsed),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse_x509_certificate(certificate).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, parsed)| parsed)
}

fn id(certificate: &X509Certificate<'_>) -> CertificateId {
    CertificateId { issuer: certificate.issuer().as_raw().into(), serial: certificate.raw_serial().into() }
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    alternative_names(certificate, |name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    })
}

fn alternative_names(
    certificate: &X509Certificate<'_>,
    select: impl Fn(&GeneralName<'_>) -> Option<String>,
) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(select).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_one_issuer_and_number_have_different_fingerprints() {
        let certificate = || {
            let mut params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
            params.serial_number = Some(7_u64.into());
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let (one, other) = (certificate(), certificate());
        let with_other = std::slice::from_ref(&other);
        let read = |client, intermediates| ClientCertificate::read(client, intermediates).unwrap();
        assert_eq!(read(&one, &[]).chain, read(&other, &[]).chain);
        assert_ne!(read(&one, &[]).fingerprint, read(&other, &[]).fingerprint);
        assert_eq!(read(&one, &[]).fingerprint, read(&one, with_other).fingerprint);
    }
}
