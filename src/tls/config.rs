//! What the connections of all shards share: certificates, client CAs, revoked certificates. Never changes:
//! a reload makes another one.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls::{SignatureScheme, SupportedProtocolVersion};
use x509_parser::parse_x509_crl;

use super::certificate::Facts;
use super::resolver::Resolver;
use super::verifier::Bounded;
use super::{CertificateId, ClientAuth, ClientCertificate, MinVersion, Settings};

/// The protocol that the server speaks over TLS.
const ALPN: &[u8] = b"http/1.1";

/// A certificate with its chain, and its key.
#[derive(Debug)]
pub struct Pair {
    /// The certificate, followed by intermediate ones.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// The contents of the files that the settings name.
#[derive(Debug, Default)]
pub struct Material {
    /// The certificates. The first is the default.
    pub pairs: Vec<Pair>,
    /// The CAs of client certificates.
    pub client_cas: Vec<CertificateDer<'static>>,
    /// Their revocation lists.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

/// Which part of the [`Material`] cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The certificate at this position, or its key.
    Pair(usize, String),
    /// The CAs of client certificates.
    ClientCas(String),
    /// The revocation lists.
    Crls(String),
    /// None in particular.
    Other(String),
}

/// The times of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// When it becomes valid.
    pub not_before: i64,
    /// When it expires.
    pub not_after: i64,
}

/// A configuration that sessions share.
#[derive(Debug)]
pub struct Config {
    pub(super) server: Arc<ServerConfig>,
    /// The same, for sockets whose clients need no certificate.
    open: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    validities: Vec<Validity>,
    crls_due: Option<i64>,
    revoked: HashSet<CertificateId>,
    client_auth: ClientAuth,
    client_cas: Vec<CertificateDer<'static>>,
}

impl Config {
    /// Checks the material and creates a configuration. An expired certificate is accepted: clients decide.
    pub fn new(material: Material, settings: &Settings) -> Result<Self, Unusable> {
        let Material { pairs, client_cas, crls } = material;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (mut certificates, mut validities) = (Vec::new(), Vec::new());
        for (position, pair) in pairs.into_iter().enumerate() {
            let (certified, facts) =
                certified(pair, &provider).map_err(|why| Unusable::Pair(position, why))?;
            validities.push(Validity { not_before: facts.not_before, not_after: facts.not_after });
            certificates.push((Arc::new(certified), facts.dns_names));
        }
        if certificates.is_empty() {
            return Err(Unusable::Other("tls_certificates: empty; name at least one CERTIFICATE:KEY".into()));
        }
        let (mut revoked, mut crls_due) = (HashSet::new(), None::<i64>);
        for crl in &crls {
            let (_, parsed) = parse_x509_crl(crl).map_err(|error| Unusable::Crls(error.to_string()))?;
            let issuer: Box<[u8]> = parsed.issuer().as_raw().into();
            let serials = parsed.iter_revoked_certificates().map(|entry| entry.raw_serial().into());
            revoked.extend(serials.map(|serial| CertificateId { issuer: issuer.clone(), serial }));
            if let Some(due) = parsed.next_update().map(|time| time.timestamp()) {
                crls_due = Some(crls_due.map_or(due, |earlier| earlier.min(due)));
            }
        }
        let resolver = Arc::new(Resolver::new(certificates));
        let resolving = || Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>;
        let other = |error: rustls::Error| Unusable::Other(format!("TLS: {error}"));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(settings.min_version))
            .map_err(other)?;
        let open = finished(builder.clone().with_no_client_auth().with_cert_resolver(resolving()));
        let server = match settings.client_auth {
            ClientAuth::None => Arc::clone(&open),
            auth => {
                let verifier = verifier(auth, client_cas.clone(), crls, provider)?;
                finished(builder.with_client_cert_verifier(verifier).with_cert_resolver(resolving()))
            }
        };
        let client_auth = settings.client_auth;
        Ok(Self { server, open, resolver, validities, crls_due, revoked, client_auth, client_cas })
    }

    /// Returns the configuration of sockets whose clients show no certificate, whatever `tls_client_auth` says:
    /// those of the control port.
    pub fn without_client_certificates(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.open)
    }

    /// Returns the times of the certificates, in the order of the settings.
    pub fn validities(&self) -> &[Validity] {
        &self.validities
    }

    /// Returns when the first certificate expires, in seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.validities.iter().map(|validity| validity.not_after).min().unwrap_or(i64::MAX)
    }

    /// Returns when the first revocation list expires, in seconds since 1970. From then on, clients are
    /// refused.
    pub fn crls_due(&self) -> Option<i64> {
        self.crls_due
    }

    /// Returns whether `other` accepts the same clients, apart from revoked ones.
    pub fn accepts_the_clients_of(&self, other: &Self) -> bool {
        self.client_auth == other.client_auth && self.client_cas == other.client_cas
    }

    /// Returns whether a certificate of the client's chain is revoked.
    pub fn revokes(&self, client: &ClientCertificate) -> bool {
        !self.revoked.is_empty() && client.chain.iter().any(|id| self.revoked.contains(id))
    }

    /// Signs with the key at a position, as a handshake does. For the measurement of how long that takes.
    pub fn sign(&self, position: usize, message: &[u8]) -> bool {
        let Some(certified) = self.resolver.certificates().get(position) else { return false };
        let signer = certified.key.choose_scheme(&SIGNATURE_SCHEMES);
        signer.is_some_and(|signer| signer.sign(message).is_ok())
    }
}

/// The schemes of TLS 1.3, in the order in which today's clients prefer them.
const SIGNATURE_SCHEMES: [SignatureScheme; 7] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

fn certified(pair: Pair, provider: &CryptoProvider) -> Result<(CertifiedKey, Facts), String> {
    let leaf = pair.chain.first().ok_or("contains no certificate")?;
    let facts = Facts::read(leaf).ok_or("its certificate is malformed")?;
    let certified = CertifiedKey::from_der(pair.chain, pair.key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
        other => other.to_string(),
    })?;
    Ok((certified, facts))
}

/// Sets what does not depend on the settings.
fn finished(mut server: ServerConfig) -> Arc<ServerConfig> {
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    server.send_half_rtt_data = false;
    Arc::new(server)
}

/// TLS 1.3 alone.
static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn versions(oldest: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    match oldest {
        MinVersion::Tls12 => rustls::ALL_VERSIONS,
        MinVersion::Tls13 => TLS13,
    }
}

fn verifier(
    auth: ClientAuth,
    cas: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Unusable> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca).map_err(|error| Unusable::ClientCas(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Unusable::ClientCas("contains no certificate".into()));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(crls)
        .enforce_revocation_expiration();
    let builder = if auth == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
    let verifier = builder.build().map_err(|error| Unusable::Crls(error.to_string()))?;
    Ok(Arc::new(Bounded(verifier)))
}
