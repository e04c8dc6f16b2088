//! Listening sockets that the service manager opened and passed to this process (sd_listen_fds(3)).
//!
//! The manager keeps them open while the process restarts. Newcomers wait in their backlog meanwhile.

use std::env;
use std::fmt;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

/// The first descriptor that is passed.
const FIRST: usize = 3;

/// The most sockets that are taken over. More are a mistake.
const SOCKETS_MAX: usize = 16;

/// A passed socket cannot be used. The text says what to change.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

/// The passed sockets that are not used yet, by name.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes over the passed sockets. Call it once, before the process opens any file: the sockets are known
    /// only by their descriptors.
    pub fn take() -> Result<Self, Unusable> {
        check_descriptors()?;
        let passed = sd_listen_fds::get().map_err(|_| {
            let why = "LISTEN_PID or LISTEN_FDS is not a number: unset them, or start the server from a socket unit";
            Unusable(why.into())
        })?;
        let mut sockets = Vec::new();
        for (index, (name, socket)) in passed.into_iter().enumerate() {
            let (number, socket) = (index + FIRST, socket.into_std());
            // systemd clears the flag. Commands that the server runs must not hold the sockets open.
            fcntl_setfd(&socket, FdFlags::CLOEXEC)
                .map_err(|error| Unusable(format!("LISTEN_FDS: descriptor {number}: {error}")))?;
            sockets.push((name.unwrap_or_default(), socket));
        }
        Ok(Self(sockets))
    }

    /// Returns the TCP socket of this name, if it was passed. Fails if it cannot accept TCP connections.
    pub fn tcp(&mut self, name: &str) -> Result<Option<TcpListener>, Unusable> {
        let Some(at) = self.0.iter().position(|(one, _)| one == name) else { return Ok(None) };
        let (_, socket) = self.0.swap_remove(at);
        if self.0.iter().any(|(one, _)| one == name) {
            let why =
                format!("two sockets named {name} were passed: write one ListenStream= per socket unit");
            return Err(Unusable(why));
        }
        check(&socket).map_err(|why| Unusable(format!("the passed socket named {name} {why}")))?;
        Ok(Some(socket.into()))
    }

    /// Fails if a socket was passed that nothing uses. `names` are those that the server knows.
    pub fn check_all_used(&self, names: &str) -> Result<(), Unusable> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Unusable(format!(
                "a socket named {name:?} was passed; the server knows {names}: set FileDescriptorName= in the \
                 socket unit"
            ))),
        }
    }
}

/// Checks that as many descriptors are open as were passed. An [`OwnedFd`] of one that is not open aborts the
/// process when it is dropped.
fn check_descriptors() -> Result<(), Unusable> {
    let number = |variable| env::var(variable).ok().and_then(|text| text.parse::<usize>().ok());
    let is_ours = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id() as usize);
    let count = number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0);
    if count > SOCKETS_MAX {
        let why = format!("LISTEN_FDS: {count} sockets were passed; at most {SOCKETS_MAX} can be");
        return Err(Unusable(why));
    }
    let is_open = |number: &usize| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    match (FIRST..FIRST + count).find(|number| !is_open(number)) {
        None => Ok(()),
        Some(number) => Err(Unusable(format!("LISTEN_FDS: descriptor {number} was not passed"))),
    }
}

/// Checks that a descriptor is a TCP socket that listens.
fn check(socket: &OwnedFd) -> Result<(), String> {
    let socket = socket.as_fd();
    let kind = socket_type(socket).map_err(|error| format!("is no socket: {error}"))?;
    let family = socket_domain(socket).map_err(|error| format!("is no socket: {error}"))?;
    if !matches!(family, AddressFamily::INET | AddressFamily::INET6) {
        return Err("is not an IPv4 or IPv6 socket: give ListenStream= an address and a port".into());
    }
    if kind != SocketType::STREAM {
        return Err("is not a TCP socket: use ListenStream=".into());
    }
    match socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err("does not listen: use ListenStream= with Accept=no".into()),
        Err(error) => Err(format!("is no socket: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn passed(sockets: Vec<(&str, OwnedFd)>) -> Inherited {
        Inherited(sockets.into_iter().map(|(name, socket)| (name.to_owned(), socket)).collect())
    }

    #[test]
    fn a_socket_is_taken_by_its_name_once() {
        let (first, second) = (listener(), listener());
        let ports = [&first, &second].map(|one| one.local_addr().unwrap().port());
        let mut inherited = passed(vec![("control", first.into()), ("listen", second.into())]);
        assert_eq!(inherited.tcp("listen").unwrap().unwrap().local_addr().unwrap().port(), ports[1]);
        assert!(inherited.tcp("listen").unwrap().is_none());
        let why = inherited.check_all_used("listen").unwrap_err().to_string();
        assert!(why.contains("\"control\"") && why.contains("FileDescriptorName="), "{why}");
        assert_eq!(inherited.tcp("control").unwrap().unwrap().local_addr().unwrap().port(), ports[0]);
        inherited.check_all_used("listen").unwrap();
    }

    #[test]
    fn sockets_that_accept_no_tcp_connections_are_refused_with_a_remedy() {
        let path = std::env::temp_dir().join(format!("millstream-inherited-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let server = listener();
        let connected = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (socket, words) in [
            (unix.into(), "an address and a port"),
            (connected.into(), "does not listen"),
            (udp.into(), "not a TCP socket"),
            (file, "is no socket"),
        ] {
            let why = passed(vec![("listen", socket)]).tcp("listen").unwrap_err().to_string();
            assert!(why.contains(words) && why.contains("listen"), "{why}");
        }
        let twice = passed(vec![("listen", listener().into()), ("listen", listener().into())])
            .tcp("listen")
            .unwrap_err();
        assert!(twice.to_string().contains("two sockets named listen"), "{twice}");
    }
}
