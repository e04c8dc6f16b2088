//! The addresses that a server listens on: the setting `listen`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::base::setting::{Kind, Value};

/// The prefix of the path of a Unix socket.
const UNIX: &str = "unix:";

/// The longest path of a Unix socket, in bytes: `sun_path` without the final NUL (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a TCP port.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the address, if it is one of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The addresses that a server listens on, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<Address>);

impl Addresses {
    /// Returns the addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        self.0.iter()
    }

    /// Returns the number of addresses.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the first address of TCP.
    pub fn first_tcp(&self) -> Option<SocketAddr> {
        self.iter().find_map(Address::tcp)
    }

    /// Returns whether a socket for this IPv6 address must leave IPv4 to another socket of the list, which has
    /// the same port.
    pub fn leaves_ipv4(&self, of: &SocketAddr) -> bool {
        of.port() != 0
            && self.iter().filter_map(Address::tcp).any(|one| one.is_ipv4() && one.port() == of.port())
    }
}

impl From<SocketAddr> for Addresses {
    fn from(address: SocketAddr) -> Self {
        Self(vec![Address::Tcp(address)])
    }
}

impl FromIterator<Address> for Addresses {
    fn from_iter<T: IntoIterator<Item = Address>>(addresses: T) -> Self {
        Self(addresses.into_iter().collect())
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl Value for Addresses {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let mut all = Vec::new();
        for item in items {
            let address = address(item)?;
            let is_free_port = address.tcp().is_some_and(|address| address.port() == 0);
            if !is_free_port && all.contains(&address) {
                return Err(format!("{item} is listed twice"));
            }
            all.push(address);
        }
        if all.is_empty() { Err("empty; name an address and a port".into()) } else { Ok(Self(all)) }
    }

    fn show(&self, _: &Kind) -> String {
        self.to_string()
    }
}

/// Optional addresses. Empty text means none.
impl Value for Option<Addresses> {
    fn read(text: &str, kind: &Kind) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { Addresses::read(text, kind).map(Some) }
    }

    fn show(&self, _: &Kind) -> String {
        self.as_ref().map_or(String::new(), Addresses::to_string)
    }
}

fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return unix_path(path).map(Address::Unix);
    }
    text.parse().map(Address::Tcp).map_err(|_| {
        format!("{text:?} is not an address and a port like 127.0.0.1:9000 or [::]:9000, nor unix:/PATH")
    })
}

/// Checks the path of a Unix socket.
fn unix_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() || path.file_name().is_none() || text.ends_with('/') {
        return Err(format!(
            "{UNIX}{text}: not the absolute path of a file; write {UNIX}/run/millstream.sock"
        ));
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(format!(
            "{UNIX}{text}: the path has {} bytes; the path of a Unix socket has at most {PATH_BYTES_MAX}",
            text.len()
        ));
    }
    Ok(path.to_owned())
}

/// The permissions of the files of Unix sockets, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let is_octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| format!("{text:?} is not a mode in octal like 660"))
    }

    fn show(&self, _: &Kind) -> String {
        format!("{:o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Addresses, String> {
        Addresses::read(text, &Kind::Text)
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for text in
            ["127.0.0.1:9000", "[::]:9000,unix:/run/millstream.sock", "unix:/a", "0.0.0.0:0,0.0.0.0:0"]
        {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        let both = read(" unix:/run/a.sock, 10.0.0.1:9000 ,").unwrap();
        assert_eq!(both.to_string(), "unix:/run/a.sock,10.0.0.1:9000");
        assert_eq!(both.first_tcp(), Some(([10, 0, 0, 1], 9000).into()));
        assert_eq!(read("unix:/a").unwrap().first_tcp(), None);
    }

    #[test]
    fn invalid_addresses_are_refused_with_a_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, words) in [
            ("", "empty"),
            (" , ", "empty"),
            ("localhost:9000", "is not an address and a port"),
            ("9000", "is not an address and a port"),
            ("/run/millstream.sock", "unix:/PATH"),
            ("unix:", "absolute path"),
            ("unix:run/a.sock", "absolute path"),
            ("unix:/run/", "absolute path"),
            ("unix:@abstract", "absolute path"),
            ("unix:/", "absolute path"),
            (&long, "the path has 108 bytes; the path of a Unix socket has at most 107"),
            ("127.0.0.1:9000,127.0.0.1:9000", "127.0.0.1:9000 is listed twice"),
            ("unix:/a,unix:/a", "unix:/a is listed twice"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
        assert!(read(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn an_ipv6_socket_leaves_ipv4_to_a_socket_with_the_same_port() {
        let leaves = |text| read(text).unwrap().leaves_ipv4(&"[::]:9000".parse().unwrap());
        assert!(leaves("0.0.0.0:9000,[::]:9000") && leaves("[::]:9000,127.0.0.1:9000"));
        assert!(!leaves("[::]:9000") && !leaves("[::]:9000,0.0.0.0:9001") && !leaves("[::]:9000,[::1]:9000"));
    }

    #[test]
    fn modes_are_octal() {
        let read = |text| FileMode::read(text, &Kind::Text);
        assert_eq!(
            (read("660"), read("0600"), read("0o777")),
            (Ok(FileMode(0o660)), Ok(FileMode(0o600)), Ok(FileMode(0o777)))
        );
        assert_eq!(FileMode(0o660).show(&Kind::Text), "660");
        for text in ["", "8", "1777", "rw-rw----", "-1", "+60"] {
            assert!(read(text).unwrap_err().contains("octal"), "{text}");
        }
    }
}
