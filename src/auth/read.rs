//! Reads the files of the providers. Each error names the setting, the file and the line.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

use super::http::{Http, Trusted, address};
use super::provider::jwt::KeySet;
use super::provider::keystone::{Account, Client};
use super::provider::listed::Listed;
use super::provider::mtls::Certified;
use super::settings::{ProviderKind, Settings};
use crate::base::setting::Unworkable;
use crate::tls::files::{Content, read};

/// What the providers decide with, as far as the configuration says it.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) settings: Settings,
    pub(super) listed: Listed,
    pub(super) certified: Certified,
    pub(super) keys: Keys,
    pub(super) keystone: Option<Remote<Arc<Client>>>,
    /// A number that changes when the contents of a file do.
    pub(super) fingerprint: u64,
    /// Warnings for the log.
    pub(super) warnings: Vec<String>,
}

/// Where the keys of provider jwt come from.
#[derive(Debug)]
pub(super) enum Keys {
    /// The provider is not used.
    None,
    /// A file, which was read.
    File(KeySet),
    /// An address.
    Address(Remote<Arc<(Http, Url)>>),
}

/// How to reach a provider.
#[derive(Clone, Debug)]
pub(super) struct Remote<T> {
    pub(super) by: T,
    /// A number that changes when the way to the provider does.
    pub(super) fingerprint: u64,
}

impl Material {
    /// Reads all files that the settings name. May block for as long as the file system does.
    pub(super) fn read(settings: &Settings) -> Result<Self, Unworkable> {
        settings.check()?;
        let mut all = DefaultHasher::new();
        let mut warnings = Vec::new();
        let mut file = |key: &str, path: &Path| {
            let content = read(key, path)?;
            (path, &content.bytes).hash(&mut all);
            Ok::<Content, Unworkable>(content)
        };
        let listed = match used(settings, ProviderKind::Static, &settings.static_file) {
            Some(path) => {
                let content = file("auth_static_file", path)?;
                warn_of_mode("auth_static_file", path, &content, &mut warnings);
                let listed = Listed::read("auth_static_file", path, &content.bytes)?;
                if listed.is_empty() {
                    warnings.push(format!("auth_static_file: {}: lists nobody", path.display()));
                }
                listed
            }
            None => Listed::default(),
        };
        let certified = match used(settings, ProviderKind::Mtls, &settings.mtls_file) {
            Some(path) => Certified::read("auth_mtls_file", path, &file("auth_mtls_file", path)?.bytes)?,
            None => Certified::default(),
        };
        let mut way = DefaultHasher::new();
        let http = match &settings.ca {
            Some(path) if is_remote(settings) => {
                let content = file("auth_ca", path)?;
                content.bytes.hash(&mut way);
                Some(Http::new(Trusted::read("auth_ca", path, &content.bytes)?))
            }
            None if is_remote(settings) => Some(Http::new(Trusted::system())),
            _ => None,
        };
        let keys = match &http {
            _ if !settings.uses(ProviderKind::Jwt) => Keys::None,
            Some(http) if is_address(&settings.jwt_keys) => {
                let url = address("auth_jwt_keys", &settings.jwt_keys)?;
                let mut way = way.clone();
                url.as_str().hash(&mut way);
                Keys::Address(Remote { by: Arc::new((http.clone(), url)), fingerprint: way.finish() })
            }
            _ => {
                let path = Path::new(&settings.jwt_keys);
                let read = KeySet::read(&file("auth_jwt_keys", path)?.bytes);
                Keys::File(
                    read.map_err(|why| Unworkable(format!("auth_jwt_keys: {}: {why}", path.display())))?,
                )
            }
        };
        let keystone = match (&http, used(settings, ProviderKind::Keystone, &settings.keystone_credentials)) {
            (Some(http), Some(path)) => {
                let url = address("auth_keystone_url", &settings.keystone_url)?;
                let content = file("auth_keystone_credentials", path)?;
                warn_of_mode("auth_keystone_credentials", path, &content, &mut warnings);
                (url.as_str(), &content.bytes).hash(&mut way);
                let account = Account::read("auth_keystone_credentials", path, &content.bytes)?;
                let client = Arc::new(Client::new(http.clone(), url, account));
                Some(Remote { by: client, fingerprint: way.finish() })
            }
            _ => None,
        };
        let fingerprint = all.finish();
        Ok(Self { settings: settings.clone(), listed, certified, keys, keystone, fingerprint, warnings })
    }
}

/// Returns every file that is read.
pub(super) fn paths(settings: &Settings) -> Vec<PathBuf> {
    let keys = settings.uses(ProviderKind::Jwt) && !is_address(&settings.jwt_keys);
    let files = [
        used(settings, ProviderKind::Static, &settings.static_file).cloned(),
        used(settings, ProviderKind::Mtls, &settings.mtls_file).cloned(),
        used(settings, ProviderKind::Keystone, &settings.keystone_credentials).cloned(),
        keys.then(|| PathBuf::from(&settings.jwt_keys)),
        settings.ca.clone().filter(|_| is_remote(settings)),
    ];
    files.into_iter().flatten().collect()
}

fn used<'a>(settings: &Settings, kind: ProviderKind, file: &'a Option<PathBuf>) -> Option<&'a PathBuf> {
    file.as_ref().filter(|_| settings.uses(kind))
}

/// Returns whether a provider is asked over the network.
fn is_remote(settings: &Settings) -> bool {
    let has_address = settings.uses(ProviderKind::Jwt) && is_address(&settings.jwt_keys);
    has_address || settings.uses(ProviderKind::Keystone)
}

fn is_address(keys: &str) -> bool {
    keys.contains("://")
}

fn warn_of_mode(key: &str, path: &Path, content: &Content, warnings: &mut Vec<String>) {
    if content.mode & 0o004 != 0 {
        warnings.push(format!(
            "{key}: {}: every user of this machine can read the file; run chmod o= on it",
            path.display()
        ));
    }
}
