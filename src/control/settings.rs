//! The address of the control port, and the host names that it accepts.

use std::net::SocketAddr;

use crate::base::setting::{Kind, Value, parse, settings};

/// The port of a control port `next` if `listen` has only Unix sockets.
const PORT_BESIDE_UNIX: u16 = 9001;

/// The address of the control port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlListen {
    /// The port after the first one of `listen`, on 127.0.0.1. Any free port if that one is 0. Port 9001 if
    /// `listen` has only Unix sockets.
    #[default]
    Next,
    /// The control port listens on this address.
    At(SocketAddr),
    /// The server has no control port.
    Off,
}

impl ControlListen {
    /// Returns the address for a server whose first TCP address is `listen`, or `None` if there is no control
    /// port.
    pub fn address(self, listen: Option<SocketAddr>) -> Option<SocketAddr> {
        match self {
            Self::Next => {
                let port = match listen.map(|listen| listen.port()) {
                    None => Some(PORT_BESIDE_UNIX),
                    Some(0) => Some(0),
                    Some(port) => port.checked_add(1),
                };
                port.map(|port| ([127, 0, 0, 1], port).into())
            }
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

impl Value for ControlListen {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        match text {
            "next" => Ok(Self::Next),
            "off" => Ok(Self::Off),
            _ => parse(text, "next, off, or an address and a port").map(Self::At),
        }
    }

    fn show(&self, _: &Kind) -> String {
        match self {
            Self::Next => "next".into(),
            Self::At(address) => address.to_string(),
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
        in Listen:
        /// Address and port of the control port (health and metrics); next: 127.0.0.1 and the port after the
        /// first of listen (9001 if listen has only Unix sockets); off: none
        listen: ControlListen = ControlListen::default(), "control_listen", Text;
        /// Comma-separated host names that the control port accepts in addition to localhost and IP
        /// addresses, without ports; requests for other names get 421
        hosts: Hosts = Hosts::default(), "control_hosts", Text;
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
        let next = |port: u16| ControlListen::Next.address(Some(([10, 0, 0, 1], port).into()));
        assert_eq!(next(9000), Some(([127, 0, 0, 1], 9001).into()));
        assert_eq!(next(0), Some(([127, 0, 0, 1], 0).into()));
        assert_eq!(next(u16::MAX), None);
        assert_eq!(ControlListen::Next.address(None), Some(([127, 0, 0, 1], 9001).into()));
    }
}
