//! Reads the files of the settings. Each error names the setting and the file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::{parse_x509_certificate, parse_x509_crl};

use super::config::Unusable;
use super::{ClientAuth, Config, Material, Pair, Settings};
use crate::base::setting::Unworkable;

/// The largest file that is read, in bytes. A revocation list of 100,000 certificates takes 4 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// How long a signature may take before a warning. ECDSA P-256 takes some 30 µs, RSA-2048 some 500 µs.
const SIGNING_MAX: Duration = Duration::from_micros(300);

/// How many signatures are measured. The fastest counts.
const SIGNATURES: usize = 8;

/// A configuration made of files, and what its operator should know.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Arc<Config>,
    /// [`Contents::fingerprint`] of the files.
    pub fingerprint: u64,
    /// Warnings for the log.
    pub warnings: Vec<String>,
}

/// The contents of every file that the settings name.
#[derive(Debug)]
pub struct Contents(BTreeMap<PathBuf, Content>);

/// The content of a file.
#[derive(Debug)]
pub struct Content {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Who may read it, as in `st_mode`.
    pub mode: u32,
}

/// Reads the files, and checks that they fit together.
pub fn load(settings: &Settings) -> Result<Loaded, Unworkable> {
    settings.check()?;
    Contents::read(settings)?.load(settings)
}

/// Returns every file that [`load`] reads.
pub fn paths(settings: &Settings) -> impl Iterator<Item = &Path> {
    keys_and_paths(settings).map(|(_, path)| path)
}

impl Contents {
    /// Reads the files. May block for as long as the file system does.
    pub fn read(settings: &Settings) -> Result<Self, Unworkable> {
        let mut contents = BTreeMap::new();
        for (key, path) in keys_and_paths(settings) {
            if !contents.contains_key(path) {
                contents.insert(path.to_owned(), read(key, path)?);
            }
        }
        Ok(Self(contents))
    }

    /// Returns a number that changes when the contents of a file do.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.values().for_each(|content| content.bytes.hash(&mut hasher));
        hasher.finish()
    }

    /// Makes a configuration of the contents. The settings must be those that they were read for.
    pub fn load(&self, settings: &Settings) -> Result<Loaded, Unworkable> {
        let mut warnings = Vec::new();
        let mut pairs = Vec::new();
        for (certificate, key) in &settings.certificates.0 {
            let chain = self.certificates("tls_certificates", certificate)?;
            pairs.push(Pair { chain, key: self.private_key(key, &mut warnings)? });
        }
        let (mut client_cas, mut crls) = (Vec::new(), Vec::new());
        if settings.client_auth != ClientAuth::None {
            if let Some(file) = &settings.client_ca {
                client_cas = self.certificates("tls_client_ca", file)?;
            }
            if let Some(file) = &settings.client_crl {
                crls = self.revocation_lists(file)?;
                warn_of_issuers(&client_cas, &crls, file, &mut warnings);
            }
        }
        let config = Config::new(Material { pairs, client_cas, crls }, settings)
            .map_err(|unusable| named(unusable, settings))?;
        warn_of_times(&config, settings, &mut warnings);
        warn_of_slow_keys(&config, settings, &mut warnings);
        Ok(Loaded { config: Arc::new(config), fingerprint: self.fingerprint(), warnings })
    }

    fn bytes(&self, file: &Path) -> &[u8] {
        self.0.get(file).map_or(&[], |content| &content.bytes)
    }

    fn certificates(&self, key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Unworkable> {
        let found = CertificateDer::pem_slice_iter(self.bytes(file)).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| failed(key, file, of_pem(&error)))?;
        if found.is_empty() {
            return Err(failed(key, file, "contains no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
        }
        Ok(found)
    }

    fn private_key(
        &self,
        file: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<PrivateKeyDer<'static>, Unworkable> {
        let bytes = self.bytes(file);
        if self.0.get(file).is_some_and(|content| content.mode & 0o004 != 0) {
            warnings.push(format!(
                "tls_certificates: {}: every user of this machine can read the key; run chmod o= on it",
                file.display()
            ));
        }
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if contains(bytes, b"BEGIN ENCRYPTED PRIVATE KEY") => failed(
                "tls_certificates",
                file,
                "the key is encrypted, and nobody could type a password; decrypt it with openssl pkey",
            ),
            error => failed("tls_certificates", file, of_pem(&error)),
        })
    }

    fn revocation_lists(
        &self,
        file: &Path,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, Unworkable> {
        let key = "tls_client_crl";
        let found =
            CertificateRevocationListDer::pem_slice_iter(self.bytes(file)).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| failed(key, file, of_pem(&error)))?;
        if found.is_empty() {
            return Err(failed(key, file, "contains no revocation list in PEM (-----BEGIN X509 CRL-----)"));
        }
        Ok(found)
    }
}

fn keys_and_paths(settings: &Settings) -> impl Iterator<Item = (&'static str, &Path)> {
    let pairs = settings.certificates.0.iter().flat_map(|(certificate, key)| [certificate, key]);
    let pairs = pairs.map(|path| ("tls_certificates", path));
    let ca = settings.client_ca.iter().map(|path| ("tls_client_ca", path));
    let crl = settings.client_crl.iter().map(|path| ("tls_client_crl", path));
    pairs.chain(ca).chain(crl).map(|(key, path)| (key, path.as_path()))
}

fn failed(key: &str, file: &Path, why: impl std::fmt::Display) -> Unworkable {
    Unworkable(format!("{key}: {}: {why}", file.display()))
}

/// Reads the regular file that the setting `key` names. Refuses others: a pipe may keep its reader waiting for ever.
pub fn read(key: &str, path: &Path) -> Result<Content, Unworkable> {
    let failed_to = |error: io::Error| failed(key, path, error);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed_to)?;
    let metadata = file.metadata().map_err(failed_to)?;
    if !metadata.is_file() {
        return Err(failed(key, path, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed_to)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(key, path, format_args!("larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(Content { bytes, mode: metadata.permissions().mode() })
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// Describes an error of the PEM reader, without any of the file's contents.
fn of_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "contains no private key in PEM (-----BEGIN PRIVATE KEY-----)",
        pem::Error::MissingSectionEnd { .. } => "is cut off: an -----END line is missing",
        _ => "is not valid PEM",
    }
}

fn named(unusable: Unusable, settings: &Settings) -> Unworkable {
    let of = |key, file: &Option<PathBuf>, why| failed(key, file.as_deref().unwrap_or(Path::new("")), why);
    match unusable {
        Unusable::Pair(position, why) => match settings.certificates.0.get(position) {
            Some((certificate, key)) => Unworkable(format!(
                "tls_certificates: {} with {}: {why}",
                certificate.display(),
                key.display()
            )),
            None => Unworkable(why),
        },
        Unusable::ClientCas(why) => of("tls_client_ca", &settings.client_ca, why),
        Unusable::Crls(why) => of("tls_client_crl", &settings.client_crl, why),
        Unusable::Other(why) => Unworkable(why),
    }
}

fn warn_of_times(config: &Config, settings: &Settings, warnings: &mut Vec<String>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    for ((file, _), validity) in settings.certificates.0.iter().zip(config.validities()) {
        let file = file.display();
        if validity.not_after < now {
            warnings
                .push(format!("tls_certificates: {file}: the certificate has expired: clients refuse it"));
        } else if validity.not_before > now {
            warnings.push(format!(
                "tls_certificates: {file}: the certificate is not valid yet: clients refuse it"
            ));
        }
    }
    if let Some(file) = &settings.client_crl
        && config.crls_due().is_some_and(|due| due < now)
    {
        warnings.push(format!(
            "tls_client_crl: {}: a revocation list has expired: clients with a certificate are refused",
            file.display()
        ));
    }
}

/// Warns of CAs without a revocation list, whose clients are refused, and of lists of others.
fn warn_of_issuers(
    cas: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
    file: &Path,
    warnings: &mut Vec<String>,
) {
    // Whether they are malformed is checked elsewhere.
    let cas: Vec<_> = cas.iter().filter_map(|ca| parse_x509_certificate(ca).ok()).collect();
    let crls: Vec<_> = crls.iter().filter_map(|crl| parse_x509_crl(crl).ok()).collect();
    let is_of = |ca: &X509Certificate<'_>, crl: &CertificateRevocationList<'_>| {
        ca.subject().as_raw() == crl.issuer().as_raw()
    };
    for (_, ca) in &cas {
        if !crls.iter().any(|(_, crl)| is_of(ca, crl)) {
            warnings.push(format!(
                "tls_client_crl: {}: contains no list of the CA {:?} of tls_client_ca: its clients are refused",
                file.display(),
                ca.subject().to_string()
            ));
        }
    }
    for (_, crl) in &crls {
        if !cas.iter().any(|(_, ca)| is_of(ca, crl)) {
            warnings.push(format!(
                "tls_client_crl: {}: the list of {:?} is of no CA of tls_client_ca: it is used only if that is an \
                 intermediate CA",
                file.display(),
                crl.issuer().to_string()
            ));
        }
    }
}

fn warn_of_slow_keys(config: &Config, settings: &Settings, warnings: &mut Vec<String>) {
    for (position, (_, key)) in settings.certificates.0.iter().enumerate() {
        let signatures = (0..SIGNATURES).map(|_| {
            let began = Instant::now();
            config.sign(position, &[0; 130]).then(|| began.elapsed())
        });
        if let Some(fastest) = signatures.flatten().min()
            && fastest > SIGNING_MAX
        {
            warnings.push(format!(
                "tls_certificates: {}: a signature takes {} µs, which delays others on the shard at each handshake; \
                 an ECDSA P-256 key takes some 30 µs",
                key.display(),
                fastest.as_micros()
            ));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tls::CertificateFiles;

    /// Makes a folder with a certificate and its key.
    pub(crate) fn place(name: &str) -> (PathBuf, Settings) {
        let place = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let files = (place.join("a.pem"), place.join("a.key"));
        let settings = Settings { certificates: CertificateFiles(vec![files]), ..Settings::default() };
        renew(&settings);
        (place, settings)
    }

    /// Replaces the certificate and its key.
    pub(crate) fn renew(settings: &Settings) {
        let made = rcgen::generate_simple_self_signed(vec!["server.example".to_owned()]).unwrap();
        let (certificate, key) = &settings.certificates.0[0];
        std::fs::write(certificate, made.cert.pem()).unwrap();
        std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn the_fingerprint_is_of_the_bytes_that_were_loaded() {
        let (place, settings) = place("fingerprint");
        let loaded = load(&settings).unwrap();
        assert_eq!(Contents::read(&settings).unwrap().fingerprint(), loaded.fingerprint);
        let contents = Contents::read(&settings).unwrap();
        renew(&settings);
        assert_eq!(contents.load(&settings).unwrap().fingerprint, loaded.fingerprint);
        assert_ne!(load(&settings).unwrap().fingerprint, loaded.fingerprint);
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_pipe_or_a_directory_is_refused_at_once() {
        let (place, settings) = place("pipe");
        let key = &settings.certificates.0[0].1;
        std::fs::remove_file(key).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, key, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let why = load(&settings).unwrap_err().0;
        assert!(why.contains("a.key: not a regular file"), "{why}");
        std::fs::remove_file(key).unwrap();
        std::fs::create_dir(key).unwrap();
        let why = load(&settings).unwrap_err().0;
        assert!(why.contains("a.key: not a regular file"), "{why}");
        std::fs::remove_dir_all(place).unwrap();
    }
}
