//! Which servers a client trusts, and the certificate that it shows them: reads the files.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore};

use super::error::ClientError;
use crate::tls::client::{Asked, Identity, Roots, RootsFrom, config};

/// Which servers to trust, in the words of the command line.
#[derive(Clone, Debug, Default)]
pub struct TrustSettings {
    /// The file with the certificates of the trusted authorities (PEM). `None` for the system's.
    pub ca: Option<PathBuf>,
    /// The files with the client's certificate and with its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether to accept every certificate.
    pub insecure: bool,
}

/// Which servers to trust, and the certificate of the client.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    asked: Arc<Asked>,
}

impl Trust {
    /// Reads the files that `settings` names. The error says which is wrong, and what to do.
    pub fn load(settings: &TrustSettings) -> Result<Self, ClientError> {
        let TrustSettings { ca, identity, insecure } = settings;
        let (roots, from) = match ca {
            _ if *insecure => (Roots::Everyone, RootsFrom::Nowhere),
            Some(file) => {
                (Roots::Authorities(authorities(file)?), RootsFrom::File(file.display().to_string()))
            }
            None => (Roots::Authorities(system()?), RootsFrom::System),
        };
        let asked = Asked { roots: from, has_identity: identity.is_some() };
        let files = identity.as_ref();
        let identity = files.map(|(cert, key)| {
            Ok::<_, ClientError>(Identity { chain: certificates("--cert", cert)?, key: private_key(key)? })
        });
        let config = config(roots, identity.transpose()?).map_err(|error| match (error, files) {
            (Error::InconsistentKeys(InconsistentKeys::KeyMismatch), Some((cert, key))) => {
                let why = format!("not the key of the certificate in {}", cert.display());
                refused("--key", key, &why)
            }
            (error, Some((cert, _))) => refused("--cert", cert, &error),
            (error, None) => ClientError::Address(error.to_string()),
        })?;
        Ok(Self { config: Arc::new(config), asked: Arc::new(asked) })
    }

    /// Returns the configuration for rustls.
    pub(crate) fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    pub(super) fn asked(&self) -> &Arc<Asked> {
        &self.asked
    }
}

fn refused(flag: &str, file: &Path, why: &dyn Display) -> ClientError {
    ClientError::Address(format!("{flag} {}: {why}", file.display()))
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(file).map_err(|error| refused(flag, file, &error))
}

/// Returns all certificates of a file. There is at least one.
fn certificates(flag: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let text = read(flag, file)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| refused(flag, file, &error))?;
    if all.is_empty() {
        return Err(refused(flag, file, &"no certificate in it (PEM: -----BEGIN CERTIFICATE-----)"));
    }
    Ok(all)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, ClientError> {
    let text = read("--key", file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if String::from_utf8_lossy(&text).contains("ENCRYPTED PRIVATE KEY") => {
            refused("--key", file, &"the key has a password: remove it with `openssl pkey`")
        }
        pem::Error::NoItemsFound => {
            refused("--key", file, &"no private key in it (PEM: -----BEGIN PRIVATE KEY-----)")
        }
        error => refused("--key", file, &error),
    })
}

/// Reads the certificates of trusted authorities.
fn authorities(file: &Path) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates("--ca", file)?) {
        roots.add(certificate).map_err(|error| {
            refused("--ca", file, &format!("certificate {number} of it is not usable: {error}"))
        })?;
    }
    Ok(roots)
}

/// Reads the authorities that the system trusts. Those that rustls cannot use are left out.
fn system() -> Result<RootCertStore, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let mut why: String = found.errors.iter().map(|error| format!(" ({error})")).collect();
        why.insert_str(0, "this machine has no trusted certificate authorities");
        return Err(ClientError::Address(format!(
            "{why}: install them (Debian: ca-certificates), or name your own with --ca FILE"
        )));
    }
    Ok(roots)
}
