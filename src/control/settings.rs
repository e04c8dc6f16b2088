//! The addresses of the control port, who may use it, and the host names that it accepts.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::base::setting::{Kind, Value, settings};
use crate::shard::address::{Addresses, FileMode};

/// The port of a control port `next` if `listen` has only Unix sockets.
const PORT_BESIDE_UNIX: u16 = 9001;

/// The addresses of the control port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ControlListen {
    /// The port after the first one of `listen`, on 127.0.0.1. Any free port if that one is 0. Port 9001 if
    /// `listen` has only Unix sockets.
    #[default]
    Next,
    /// The control port listens on these addresses.
    At(Addresses),
    /// The server has no control port.
    Off,
}

impl ControlListen {
    /// Returns the addresses for a server whose first TCP address is `listen`, or `None` if there is no control
    /// port.
    pub fn addresses(&self, listen: Option<SocketAddr>) -> Option<Addresses> {
        match self {
            Self::Next => {
                let port = match listen.map(|listen| listen.port()) {
                    None => Some(PORT_BESIDE_UNIX),
                    Some(0) => Some(0),
                    Some(port) => port.checked_add(1),
                };
                port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into())
            }
            Self::At(addresses) => Some(addresses.clone()),
            Self::Off => None,
        }
    }
}

impl Value for ControlListen {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        match text {
            "next" => Ok(Self::Next),
            "off" => Ok(Self::Off),
            _ => Addresses::read(text, &Kind::Text)
                .map(Self::At)
                .map_err(|why| format!("{why}; or write next or off")),
        }
    }

    fn show(&self, _: &Kind) -> String {
        match self {
            Self::Next => "next".into(),
            Self::At(addresses) => addresses.to_string(),
            Self::Off => "off".into(),
        }
    }
}

/// Host names, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(pub Vec<String>);

impl Value for Hosts {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        names.map(host_name).collect::<Result<_, _>>().map(Self)
    }

    fn show(&self, _: &Kind) -> String {
        self.0.join(",")
    }
}

/// Checks a host name. Returns it in lower case and without the trailing dot.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(format!(
            "{text:?} is not a host name: write a name like metrics.example, with no scheme, no port and no path"
        ));
    }
    Ok(name.to_ascii_lowercase())
}

settings! {
    /// The control port.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Listen, AtStart:
        /// Comma-separated addresses of the control port (health, metrics, deletions), each an address and a port,
        /// or unix: and the path of a Unix socket; next: 127.0.0.1 and the port after the first of listen (9001
        /// if listen has only Unix sockets); off: none; without a Unix socket in the list, a server with the
        /// embedded log adds control.sock in data_dir
        listen: ControlListen = ControlListen::default(), "control_listen", Text;
        /// Permissions of the Unix sockets of the control port, in octal: who may read and change
        unix_mode: FileMode = FileMode(0o660), "control_unix_mode", Text;
        /// Whether the TCP addresses of the control port speak TLS, with tls_certificates; clients need no
        /// certificate
        tls: bool = false, "control_tls", Flag;
        /// Comma-separated host names that the control port accepts in addition to localhost and IP
        /// addresses, without ports; requests for other names get 421
        hosts: Hosts = Hosts::default(), "control_hosts", Text;

        in Listen, OnReload:
        /// File of the tokens that requests over TCP to the control port need, except /healthz and /readyz; each
        /// line: NAME sha256:DIGEST and read or change; read again when it changes
        tokens: Option<PathBuf> = None, "control_tokens", Text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_without_scheme_port_or_path() {
        let read = |text| Hosts::read(text, &Kind::Text);
        let hosts = Hosts(vec!["metrics.example".into(), "millstream".into()]);
        assert_eq!(read("Metrics.Example., millstream"), Ok(hosts));
        assert!(read("metrics.example:9001").unwrap_err().contains("no port"));
        assert!(read("http://metrics.example").unwrap_err().contains("no scheme"));
    }

    #[test]
    fn the_next_port_is_on_the_loopback_interface() {
        let shown = |addresses: Option<Addresses>| addresses.map(|addresses| addresses.to_string());
        let next = |port: u16| shown(ControlListen::Next.addresses(Some(([10, 0, 0, 1], port).into())));
        assert_eq!(next(9000).as_deref(), Some("127.0.0.1:9001"));
        assert_eq!(next(0).as_deref(), Some("127.0.0.1:0"));
        assert_eq!(next(u16::MAX), None);
        assert_eq!(shown(ControlListen::Next.addresses(None)).as_deref(), Some("127.0.0.1:9001"));
    }

    #[test]
    fn several_addresses_may_be_listed() {
        let read = |text| ControlListen::read(text, &Kind::Text);
        let listed = "0.0.0.0:9001,unix:/run/control.sock";
        assert_eq!(read(listed).unwrap().show(&Kind::Text), listed);
        assert!(read("nowhere").unwrap_err().contains("or write next or off"));
    }
}
