//! The settings of certificates, client certificates and versions.

use std::path::PathBuf;

use crate::base::setting::{Kind, Unworkable, Value, choice, settings};

settings! {
    /// What [`load`](super::files::load) makes a [`Config`](super::Config) of.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Settings {
        in Tls:
        /// Comma-separated pairs CERTIFICATE:KEY of PEM files; each certificate serves its own names, and the
        /// first also clients that ask for another name or for none; read again when they change
        certificates: CertificateFiles = CertificateFiles::default(), "tls_certificates", Text;
        /// Oldest TLS version that is accepted
        min_version: MinVersion = MinVersion::Tls12, "tls_min_version", Choice(MinVersion::NAMES);
        /// Whether clients need a certificate; optional: a client may have none, but an invalid one is refused
        client_auth: ClientAuth = ClientAuth::None, "tls_client_auth", Choice(ClientAuth::NAMES);
        /// PEM file with the CAs of client certificates
        client_ca: Option<PathBuf> = None, "tls_client_ca", Text;
        /// PEM file with a revocation list of every CA of client certificates; on a change, connections with a
        /// revoked certificate are closed
        client_crl: Option<PathBuf> = None, "tls_client_crl", Text;
    }
}

impl Settings {
    /// Refuses combinations that cannot work.
    pub fn check(&self) -> Result<(), Unworkable> {
        let broken = match (self.client_auth, &self.client_ca, &self.client_crl) {
            (ClientAuth::None, Some(_), _) => {
                "tls_client_ca: not used, because tls_client_auth = none; set optional or required"
            }
            (ClientAuth::None, None, Some(_)) => {
                "tls_client_crl: not used, because tls_client_auth = none; set optional or required"
            }
            (ClientAuth::Optional | ClientAuth::Required, None, _) => {
                "tls_client_auth: needs tls_client_ca, a PEM file with the CAs of client certificates"
            }
            _ => return Ok(()),
        };
        Err(Unworkable(broken.to_owned()))
    }
}

choice! {
    /// Whether clients need a certificate.
    pub enum ClientAuth {
        /// No client is asked for one.
        #[default]
        None = "none",
        /// A client may have none. An invalid one is refused.
        Optional = "optional",
        /// A client without a valid one is refused.
        Required = "required",
    }
}

choice! {
    /// The oldest version that is accepted.
    pub enum MinVersion {
        /// TLS 1.2.
        #[default]
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

/// The files of certificates, each with the file of its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFiles(pub Vec<(PathBuf, PathBuf)>);

impl Value for CertificateFiles {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| match pair.split_once(':') {
                Some((certificate, key)) if !certificate.trim().is_empty() && !key.trim().is_empty() => {
                    Ok((certificate.trim().into(), key.trim().into()))
                }
                _ => Err(format!("{pair:?} is not CERTIFICATE:KEY, like server.pem:server.key")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn show(&self, _: &Kind) -> String {
        let pair =
            |(certificate, key): &(PathBuf, PathBuf)| format!("{}:{}", certificate.display(), key.display());
        self.0.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_files_are_read_as_shown() {
        let files = CertificateFiles::read("a.pem:a.key, /b/b.pem:/b/b.key", &Kind::Text).unwrap();
        assert_eq!(files.0[1], ("/b/b.pem".into(), "/b/b.key".into()));
        assert_eq!(CertificateFiles::read(&files.show(&Kind::Text), &Kind::Text), Ok(files));
        assert_eq!(CertificateFiles::read("", &Kind::Text), Ok(CertificateFiles::default()));
        for bad in ["a.pem", "a.pem:", ":a.key"] {
            let why = CertificateFiles::read(bad, &Kind::Text).unwrap_err();
            assert!(why.contains("CERTIFICATE:KEY"), "{why}");
        }
    }

    #[test]
    fn client_certificates_need_all_of_their_settings() {
        let says = |change: fn(&mut Settings), words: &str| {
            let mut settings = Settings::default();
            change(&mut settings);
            let why = settings.check().unwrap_err().0;
            assert!(why.starts_with(words), "{why}");
        };
        assert_eq!(Settings::default().check(), Ok(()));
        says(|s| s.client_auth = ClientAuth::Required, "tls_client_auth: needs tls_client_ca");
        says(|s| s.client_ca = Some("ca.pem".into()), "tls_client_ca: not used");
        says(|s| s.client_crl = Some("crl.pem".into()), "tls_client_crl: not used");
    }
}
