//! The flags of TLS, which all clients share.

use std::path::PathBuf;

use super::Failure;
use crate::client::{Address, Trust, TrustSettings};
use crate::process::terminal::say;

/// The heading of the flags in the help.
const HEADING: &str = "TLS, for an address that begins with wss://";

#[derive(Clone, Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Trust the certificate authorities in this file (PEM), and no others [default: those that the system
    /// trusts]
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    ca: Option<PathBuf>,
    /// Certificate of the client, for servers that require one (PEM). The certificates of intermediate
    /// authorities follow it in the file
    #[arg(long, value_name = "FILE", requires = "key", help_heading = HEADING)]
    cert: Option<PathBuf>,
    /// Private key of --cert (PEM, without a password)
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = HEADING)]
    key: Option<PathBuf>,
    /// Accept every certificate, for tests. Anyone between client and server can then read and change
    /// everything
    #[arg(long, conflicts_with = "ca", help_heading = HEADING)]
    insecure: bool,
}

impl TlsArgs {
    /// Returns the name of a flag that is set, if one is.
    pub(super) fn any(&self) -> Option<&'static str> {
        let set = [
            (self.ca.is_some(), "--ca"),
            (self.cert.is_some(), "--cert"),
            (self.key.is_some(), "--key"),
            (self.insecure, "--insecure"),
        ];
        set.into_iter().find_map(|(is_set, name)| is_set.then_some(name))
    }

    /// Reads the files for a connection to `address`. Returns `None` if it does not use TLS. Warns if every
    /// certificate will be accepted.
    pub(super) fn trust(&self, address: &Address) -> Result<Option<Trust>, Failure> {
        if !address.is_secure() {
            return match self.any() {
                Some(flag) => Err(Failure(format!("{flag}: works only with TLS: write wss:// in --url"))),
                None => Ok(None),
            };
        }
        let identity = self.cert.clone().zip(self.key.clone());
        let settings = TrustSettings { ca: self.ca.clone(), identity, insecure: self.insecure };
        let trust = Trust::load(&settings)?;
        if self.insecure {
            say(format_args!(
                "millstream: WARNING: --insecure: the certificate of {} is not checked, so anyone between this \
                 client and the server can read and change everything",
                address.authority()
            ));
        }
        Ok(Some(trust))
    }
}
