//! HTTP requests to providers. They never follow redirects, and their errors never contain a token.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, Error};
use url::{Host, Url};

use crate::base::setting::Unworkable;
use crate::tls::client::provider;

/// The longest accepted answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The longest accepted head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long a connection is kept for the next request. Servers close theirs after 5 s or more.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault(String);

impl Fault {
    pub(super) fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) response: Response<()>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// Returns the status.
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }
}

/// Makes requests. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Http(Agent);

impl Http {
    /// Creates a client that trusts these authorities.
    pub(super) fn new(trusted: Trusted) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(trusted.0))
            .unversioned_rustls_crypto_provider(Arc::new(provider()));
        let config = Agent::config_builder()
            .tls_config(tls.build())
            // A proxy would see tokens on their way to this machine.
            .proxy(None)
            .max_idle_age(IDLE_MAX)
            // Another host must not see a token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(HEAD_BYTES_MAX)
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(config.into())
    }

    /// Makes a request. Fails if the whole answer does not arrive within `timeout`.
    pub(super) fn call(&self, request: Request<impl AsSendBody>, timeout: Duration) -> Result<Reply, Fault> {
        let request = self.0.configure_request(request).timeout_global(Some(timeout)).build();
        let (head, body) = self.0.run(request).map_err(|error| of(&error))?.into_parts();
        let body = read(body)?;
        Ok(Reply { response: Response::from_parts(head, ()), body })
    }
}

fn read(body: Body) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut reader = body.into_with_config().limit(ANSWER_BYTES_MAX + 1).reader().take(ANSWER_BYTES_MAX + 1);
    reader.read_to_end(&mut bytes).map_err(|error| of_io(&error))?;
    if bytes.len() as u64 > ANSWER_BYTES_MAX {
        return Err(Fault::new(format_args!("the answer is longer than {} MiB", ANSWER_BYTES_MAX >> 20)));
    }
    Ok(bytes)
}

/// Describes an error without what was sent.
fn of(error: &Error) -> Fault {
    match error {
        Error::Io(error) => of_io(error),
        Error::Timeout(_) => Fault::new("no answer in time"),
        Error::HostNotFound => Fault::new("the host is not found"),
        Error::ConnectionFailed => Fault::new("the connection failed"),
        Error::Rustls(error) => Fault::new(format_args!("TLS: {error}")),
        Error::Tls(why) => Fault::new(format_args!("TLS: {why}")),
        Error::LargeResponseHeader(..) => Fault::new("the head of the answer is too long"),
        _ => Fault::new("the request failed, or its answer is no HTTP"),
    }
}

fn of_io(error: &io::Error) -> Fault {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of(error),
        None if error.kind() == io::ErrorKind::TimedOut => Fault::new("no answer in time"),
        None => Fault::new(error),
    }
}

/// The authorities that issue certificates of providers.
#[derive(Clone, Debug)]
pub(super) struct Trusted(Arc<Vec<Certificate<'static>>>);

impl Trusted {
    /// Reads those of a PEM file.
    pub(super) fn read(key: &str, path: &Path, bytes: &[u8]) -> Result<Self, Unworkable> {
        let failed = |why: &str| Unworkable(format!("{key}: {}: {why}", path.display()));
        let mut trusted = Vec::new();
        for item in parse_pem(bytes) {
            if let PemItem::Certificate(certificate) = item.map_err(|_| failed("not valid PEM"))? {
                trusted.push(certificate);
            }
        }
        if trusted.is_empty() {
            return Err(failed("contains no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
        }
        Ok(Self(Arc::new(trusted)))
    }

    /// Reads those of the system. There may be none.
    pub(super) fn system() -> Self {
        let found = rustls_native_certs::load_native_certs().certs;
        Self(Arc::new(found.iter().map(|one| Certificate::from_der(one).to_owned()).collect()))
    }
}

/// Parses the address of a provider. Only on this machine may it be without TLS.
pub(super) fn address(key: &str, text: &str) -> Result<Url, Unworkable> {
    // The address may hold a password, so it is not shown.
    let failed = |why: &str| Unworkable(format!("{key}: {why}"));
    let url = Url::parse(text).map_err(|_| failed("not an address like https://provider.example/path"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(failed("an address with a user or a password is not accepted"));
    }
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => return Err(failed("the address has no host")),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        "http" => Err(failed(
            "http:// shows tokens to the network; only loopback addresses may use it, so use https://",
        )),
        _ => Err(failed("the address must begin with https://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_may_do_without_tls() {
        for good in
            ["https://a.example/x", "http://127.0.0.1:5000/v3", "http://[::1]/", "http://localhost:1/"]
        {
            assert_eq!(address("key", good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("http://a.example/", "use https://"),
            ("http://127.0.0.1.example/", "use https://"),
            ("ftp://a.example/", "begin with https://"),
            ("https://user:canary@a.example/", "password"),
            ("keystone", "not an address"),
        ] {
            let said = address("key", bad).unwrap_err().0;
            assert!(said.starts_with("key: ") && said.contains(why) && !said.contains("canary"), "{said}");
        }
    }
}
