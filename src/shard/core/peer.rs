//! The peer of a connection, and the peers that must send a PROXY header.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use ipnet::IpNet;

use crate::base::setting::{Kind, Value};

/// The item of `proxy_from` that stands for all Unix sockets.
const UNIX: &str = "unix";

/// The peer of a connection: the client, or the proxy in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The peer has this address. An IPv4 address is never in its IPv6-mapped form. Use [`Peer::ip`] to create
    /// it.
    Ip(SocketAddr),
    /// The peer is connected to a Unix socket. All of these count as one address.
    Unix,
}

impl Peer {
    /// Returns the peer with this address. An IPv4 client of a dual-stack socket has an IPv6 address such as
    /// `::ffff:192.0.2.1`, which is converted, so that each client has one address on all sockets.
    pub fn ip(address: SocketAddr) -> Self {
        Self::Ip(match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
            // Keeps the scope of a link-local address.
            IpAddr::V6(_) => address,
        })
    }
}

impl Peer {
    /// Returns the address; `None` on a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str(UNIX),
        }
    }
}

/// The peers that must send a PROXY header: the setting `proxy_from`. A header from other peers is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyFrom {
    networks: Vec<IpNet>,
    has_unix: bool,
}

impl ProxyFrom {
    /// Returns whether this peer must send a PROXY header.
    pub fn contains(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Ip(address) => self.networks.iter().any(|network| network.contains(&address.ip())),
            Peer::Unix => self.has_unix,
        }
    }

    /// Returns a network that contains all addresses of a family, if there is one.
    pub fn everyone(&self) -> Option<IpNet> {
        self.networks.iter().find(|network| network.prefix_len() == 0).copied()
    }
}

impl FromStr for ProxyFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if item == UNIX {
                all.has_unix = true;
            } else {
                all.networks.push(network(item)?);
            }
        }
        Ok(all)
    }
}

impl Value for ProxyFrom {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self, _: &Kind) -> String {
        let networks = self.networks.iter().map(IpNet::to_string);
        networks.chain(self.has_unix.then(|| UNIX.to_owned())).collect::<Vec<_>>().join(",")
    }
}

/// Parses a network or a single address. Bits of the address beyond the prefix must be 0, because such a text
/// is usually a mistake in the prefix.
fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => text.parse::<IpNet>(),
    };
    let network = network.map_err(|_| {
        format!("{text:?} is not unix, an address, or a network like 10.0.0.0/8 or 2001:db8::/32")
    })?;
    if let IpAddr::V6(address) = network.addr()
        && address.to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is an IPv4 network in IPv6 notation; write it in IPv4 notation"));
    }
    if network.trunc() != network {
        return Err(format!(
            "{text:?} has bits beyond its prefix; write {}, or a longer prefix",
            network.trunc()
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::ip(text.parse().unwrap())
    }

    fn read(text: &str) -> Result<ProxyFrom, String> {
        text.parse()
    }

    #[test]
    fn a_mapped_address_is_the_address_of_the_ipv4_client() {
        assert_eq!(peer("[::ffff:192.0.2.1]:80"), peer("192.0.2.1:80"));
        assert_eq!(peer("[::ffff:192.0.2.1]:80").to_string(), "192.0.2.1:80");
        assert_eq!(peer("[::1]:80").to_string(), "[::1]:80");
        assert_eq!(peer("[fe80::1%3]:80").to_string(), "[fe80::1%3]:80");
        assert_eq!(Peer::Unix.to_string(), "unix");
    }

    #[test]
    fn networks_contain_their_addresses_in_any_notation() {
        let all = read(" 10.0.0.0/8, 192.0.2.7 ,2001:db8::/32,").unwrap();
        for inside in ["10.255.0.1:1", "192.0.2.7:1", "[2001:db8::9]:1", "[::ffff:10.0.0.1]:1"] {
            assert!(all.contains(&peer(inside)), "{inside}");
        }
        for outside in ["11.0.0.1:1", "192.0.2.8:1", "[2001:db9::9]:1", "[::1]:1"] {
            assert!(!all.contains(&peer(outside)), "{outside}");
        }
        assert!(!all.contains(&Peer::Unix));
        assert_eq!(all.show(&Kind::Text), "10.0.0.0/8,192.0.2.7/32,2001:db8::/32");
        assert_eq!(read(&all.show(&Kind::Text)), Ok(all));
    }

    #[test]
    fn no_peer_sends_a_header_by_default_and_unix_names_all_unix_sockets() {
        let none = read("").unwrap();
        assert!(!none.contains(&peer("127.0.0.1:1")) && !none.contains(&Peer::Unix));
        let unix = read("unix").unwrap();
        assert!(unix.contains(&Peer::Unix) && !unix.contains(&peer("127.0.0.1:1")));
        assert_eq!(unix.show(&Kind::Text), "unix");
    }

    #[test]
    fn invalid_networks_are_refused_with_a_reason() {
        for (text, words) in [
            ("10.0.0.0/33", "is not unix, an address, or a network"),
            ("10.0.0", "is not unix, an address, or a network"),
            ("proxy.example", "is not unix, an address, or a network"),
            ("10.1.0.0/8", "write 10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "IPv4 notation"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
        assert_eq!(read("10.0.0.0/8").unwrap().everyone(), None);
        assert!(read("10.0.0.0/8,::/0").unwrap().everyone().is_some());
    }
}
