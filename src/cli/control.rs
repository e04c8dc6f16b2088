//! The flags of commands that ask a running server's control port.

use std::path::PathBuf;
use std::time::Duration;

use url::Host;

use super::Failure;
use super::serve::CONTROL_SOCKET;
use crate::client::{Address, ControlClient, Endpoint, Scheme, Trust, TrustSettings};
use crate::process::terminal::say;
use crate::tls::files;

/// The heading of the flags in the help.
const HEADING: &str = "Access to the control port";

/// The variable that may hold the token itself.
const TOKEN_VARIABLE: &str = "MILLSTREAM_CONTROL_TOKEN";

/// Where the control port is, and how to get in.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ControlArgs {
    /// Address of the server's control port: http://HOST:PORT, https://HOST:PORT or unix:/PATH
    #[arg(long, default_value = "http://127.0.0.1:9001", conflicts_with = "data_dir")]
    control: String,
    /// Data directory of a running server on this machine, whose control port listens there, too (control.sock)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

/// How to get in. A token is never an argument, because other users can see those.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AccessArgs {
    /// Trust the certificate authorities in this file (PEM) for an address with https://, and no others [default: those that
    /// the system trusts]
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    control_ca: Option<PathBuf>,
    /// Send the token in the first line of this file. Without the flag, MILLSTREAM_CONTROL_TOKEN may hold a token
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    control_token_file: Option<PathBuf>,
}

/// Parses the address of a control port.
pub(super) fn control_address(text: &str) -> Result<Address, Failure> {
    Ok(Address::parse(text, Scheme::Http)?)
}

impl ControlArgs {
    /// Creates a client. A request fails if its answer does not arrive within `timeout`.
    pub(super) fn client(&self, timeout: Duration) -> Result<ControlClient, Failure> {
        let address = match &self.data_dir {
            Some(directory) => Address::at_control_socket(&directory.join(CONTROL_SOCKET)),
            None => control_address(&self.control)?,
        };
        self.access.client(&address, timeout)
    }
}

impl AccessArgs {
    /// Creates a client for the control port at `address`.
    pub(super) fn client(&self, address: &Address, timeout: Duration) -> Result<ControlClient, Failure> {
        let trust = match (address.is_secure(), &self.control_ca) {
            (true, ca) => {
                let settings = TrustSettings { ca: ca.clone(), ..TrustSettings::default() };
                let trust = Trust::load(&settings);
                Some(trust.map_err(|error| Failure(error.to_string().replace("--ca", "--control-ca")))?)
            }
            (false, Some(_)) => {
                return Err(Failure(
                    "--control-ca: works only with an address that begins with https://".into(),
                ));
            }
            (false, None) => None,
        };
        let client = ControlClient::new(address, trust, timeout);
        // The permissions of a Unix socket say who may open it. It needs no token.
        let Endpoint::Tcp { host, .. } = address.endpoint() else { return Ok(client) };
        let Some(token) = self.token()? else { return Ok(client) };
        if !address.is_secure() && !is_loopback(host) {
            say(format_args!(
                "millstream: WARNING: the token is sent to {} without TLS, so anyone between this client and the server can \
                 take it",
                address.authority()
            ));
        }
        Ok(client.with_token(&token)?)
    }

    /// Returns the token, if there is one.
    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.control_token_file else {
            return Ok(std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()));
        };
        let failed =
            |why: &dyn std::fmt::Display| Failure(format!("--control-token-file: {}: {why}", file.display()));
        let content = files::read("--control-token-file", file)?;
        let text = String::from_utf8(content.bytes).map_err(|_| failed(&"not UTF-8 text"))?;
        match text.lines().next().map(str::trim).filter(|token| !token.is_empty()) {
            Some(token) => Ok(Some(token.to_owned())),
            None => Err(failed(&"its first line is empty")),
        }
    }
}

fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => name == "localhost",
    }
}
