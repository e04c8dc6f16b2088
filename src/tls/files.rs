//! Reads the files of the settings. Each error names the setting and the file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

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
    /// Warnings for the log.
    pub warnings: Vec<String>,
}

/// Reads the files, and checks that they fit together.
pub fn load(settings: &Settings) -> Result<Loaded, Unworkable> {
    settings.check()?;
    let mut warnings = Vec::new();
    let mut pairs = Vec::new();
    for (certificate, key) in &settings.certificates.0 {
        let chain = certificates("tls_certificates", certificate)?;
        pairs.push(Pair { chain, key: private_key(key, &mut warnings)? });
    }
    let (mut client_cas, mut crls) = (Vec::new(), Vec::new());
    if settings.client_auth != ClientAuth::None {
        if let Some(file) = &settings.client_ca {
            client_cas = certificates("tls_client_ca", file)?;
        }
        if let Some(file) = &settings.client_crl {
            crls = revocation_lists(file)?;
        }
    }
    let config = Config::new(Material { pairs, client_cas, crls }, settings)
        .map_err(|unusable| named(unusable, settings))?;
    warn_of_times(&config, settings, &mut warnings);
    warn_of_slow_keys(&config, settings, &mut warnings);
    Ok(Loaded { config: Arc::new(config), warnings })
}

/// Returns every file that [`load`] reads.
pub fn paths(settings: &Settings) -> impl Iterator<Item = &Path> {
    let pairs = settings.certificates.0.iter().flat_map(|(certificate, key)| [certificate, key]);
    pairs.chain(&settings.client_ca).chain(&settings.client_crl).map(PathBuf::as_path)
}

fn failed(key: &str, file: &Path, why: impl std::fmt::Display) -> Unworkable {
    Unworkable(format!("{key}: {}: {why}", file.display()))
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, Unworkable> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(key, file, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(key, file, format_args!("larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(bytes)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Unworkable> {
    let bytes = read(key, file)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| failed(key, file, of_pem(&error)))?;
    if found.is_empty() {
        return Err(failed(key, file, "contains no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(found)
}

fn private_key(file: &Path, warnings: &mut Vec<String>) -> Result<PrivateKeyDer<'static>, Unworkable> {
    let bytes = read("tls_certificates", file)?;
    let mode = fs::metadata(file).map_or(0, |of| of.permissions().mode());
    if mode & 0o004 != 0 {
        warnings.push(format!(
            "tls_certificates: {}: every user of this machine can read the key; run chmod o= on it",
            file.display()
        ));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(&bytes, b"BEGIN ENCRYPTED PRIVATE KEY") => failed(
            "tls_certificates",
            file,
            "the key is encrypted, and nobody could type a password; decrypt it with openssl pkey",
        ),
        error => failed("tls_certificates", file, of_pem(&error)),
    })
}

fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Unworkable> {
    let key = "tls_client_crl";
    let bytes = read(key, file)?;
    let found = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| failed(key, file, of_pem(&error)))?;
    if found.is_empty() {
        return Err(failed(key, file, "contains no revocation list in PEM (-----BEGIN X509 CRL-----)"));
    }
    Ok(found)
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

/// Returns a number that changes when a file does: from its contents, or the kind of the error. Cheap enough
/// to compare files every few seconds.
pub fn fingerprint(settings: &Settings) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for path in paths(settings) {
        match contents(path) {
            Ok(bytes) => bytes.hash(&mut hasher),
            Err(error) => error.kind().hash(&mut hasher),
        }
    }
    hasher.finish()
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
