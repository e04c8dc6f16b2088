//! A listening socket: TCP, or a Unix socket with its file.
//!
//! The kernel neither replaces nor removes the file of a Unix socket. So a server that starts replaces a file
//! that a dead server has left, and a server that stops removes its own. Other files are never touched.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::address::{Address, Addresses, FileMode};
use super::core::Peer;

/// How long to wait for another server that creates its socket in the same directory.
const DIRECTORY_LOCK_MAX: Duration = Duration::from_secs(5);
const DIRECTORY_LOCK_EVERY: Duration = Duration::from_millis(10);

/// The kind of a connection's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// A connection that no shard serves yet.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, in blocking mode.
    pub socket: Socket,
    /// Its kind.
    pub kind: SocketKind,
    /// Whether it speaks TLS.
    pub is_secure: bool,
}

/// A listening socket. Never blocks.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    kind: SocketKind,
    /// The file of a Unix socket that this server has created.
    file: Option<SocketFile>,
    /// Whether the service manager holds the socket, too, for the next server.
    is_lasting: bool,
    /// Whether its connections speak TLS.
    is_secure: bool,
}

impl Listener {
    /// Takes over a TCP socket that listens already, and that the service manager keeps for the next server.
    pub fn inherited(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: socket.into(),
            kind: SocketKind::Tcp,
            file: None,
            is_lasting: true,
            is_secure: false,
        })
    }

    /// Binds to all addresses and listens. Up to `backlog` connections may wait at each to be accepted. The
    /// files of Unix sockets get the permissions `mode`. The error names the address.
    pub fn bind_all(addresses: &Addresses, backlog: u32, mode: FileMode) -> io::Result<Vec<Self>> {
        addresses.iter().map(|address| Self::bind(address, addresses, backlog, mode)).collect()
    }

    fn bind(address: &Address, of: &Addresses, backlog: u32, mode: FileMode) -> io::Result<Self> {
        let bound = match address {
            Address::Tcp(tcp) => bind_tcp(*tcp, of.leaves_ipv4(tcp)),
            Address::Unix(path) => {
                // Of two servers that start at the same time, one would remove the file that the other has
                // just created.
                let lock = lock_directory(path.parent().unwrap_or(Path::new("/")), DIRECTORY_LOCK_MAX);
                lock.and_then(|_lock| bind_unix(path, mode))
            }
        };
        let listening = bound.and_then(|listener| listener.listen(backlog));
        listening.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
    }

    /// Binds to a Unix socket in a directory that this process has locked, and listens.
    pub fn bind_in_own_directory(path: &Path, backlog: u32, mode: FileMode) -> io::Result<Self> {
        bind_unix(path, mode).and_then(|listener| listener.listen(backlog))
    }

    fn listen(self, backlog: u32) -> io::Result<Self> {
        self.socket().listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        self.socket().set_nonblocking(true)?;
        Ok(self)
    }

    /// Lets the connections speak TLS.
    #[must_use]
    pub fn secure(self) -> Self {
        Self { is_secure: true, ..self }
    }

    /// Returns whether its connections speak TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Returns the address that it listens on, with the port that the system selected for port 0.
    pub fn address(&self) -> io::Result<Address> {
        let address = self.socket().local_addr()?;
        if let Some(address) = address.as_socket() {
            return Ok(Address::Tcp(address));
        }
        let path = self.file.as_ref().map(|file| Address::Unix(file.path.clone()));
        path.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Accepts a waiting connection. Fails with `WouldBlock` if none waits.
    pub fn accept(&self) -> io::Result<(Accepted, Peer)> {
        let (socket, address) = self.socket().accept()?;
        let peer = match address.as_socket() {
            Some(address) => Peer::ip(address),
            None => Peer::Unix,
        };
        Ok((Accepted { socket, kind: self.kind, is_secure: self.is_secure }, peer))
    }

    /// Ends listening, unless the socket lasts, and removes the file of a Unix socket if it is still the one that this server has
    /// created.
    pub fn close(&self) {
        // While the socket listens, no other server replaces the file.
        self.remove_file();
        // To shut down a lasting socket would end it for the next server, too, and reset the connections that wait
        // in its backlog.
        if !self.is_lasting {
            // Fails only if it is already closed.
            let _ = self.socket().shutdown(Shutdown::Both);
        }
    }

    /// Removes the file of a Unix socket if it is still the one that this server has created.
    pub fn remove_file(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }

    fn new(socket: Socket, kind: SocketKind, file: Option<SocketFile>) -> Self {
        // The conversion does not look at the kind.
        Self { socket: TcpListener::from(socket).into(), kind, file, is_lasting: false, is_secure: false }
    }

    fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind_tcp(address: SocketAddr, leaves_ipv4: bool) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The system's default differs (net.ipv6.bindv6only).
        socket.set_only_v6(leaves_ipv4)?;
    }
    socket.bind(&address.into())?;
    Ok(Listener::new(socket, SocketKind::Tcp, None))
}

fn bind_unix(path: &Path, mode: FileMode) -> io::Result<Listener> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if is_stale(path, &address)? {
        fs::remove_file(path)
            .map_err(|error| about("the file of a server that no longer runs cannot be removed", &error))?;
    }
    socket.bind(&address)?;
    let file = SocketFile::of(path)?;
    // Nobody can connect before the socket listens.
    fs::set_permissions(path, Permissions::from_mode(mode.0))?;
    Ok(Listener::new(socket, SocketKind::Unix, Some(file)))
}

/// Locks the directory of a Unix socket against other servers that start. Returns `None` if that is impossible:
/// anyone who can read the directory can lock it, and must not keep the server from starting.
fn lock_directory(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    let unlocked = |why: &str| {
        tracing::warn!(directory = %path.display(), "{why}: do not start two servers with the same Unix socket at the same time");
        Ok(None)
    };
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return unlocked("the directory of a Unix socket cannot be read, so it is not locked");
        }
        Err(error) => return Err(about(&format!("{} cannot be opened", path.display()), &error)),
    };
    let until = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(DIRECTORY_LOCK_EVERY),
            Err(Errno::WOULDBLOCK) => {
                return unlocked("another process keeps the directory of a Unix socket locked");
            }
            // Some network file systems have no locks. Then two servers must not start at the same time.
            Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS) | Ok(()) => return Ok(Some(directory)),
            Err(error) => return Err(about(&format!("{} cannot be locked", path.display()), &error.into())),
        }
    }
}

/// Returns whether a path is the socket of a server that no longer runs. Fails if another server listens there,
/// or if the file is no socket.
fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return refuse("the file exists and is not a socket: remove it, or choose another path");
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A full backlog, or a socket of another type.
        Ok(()) => refuse("another process listens there"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => refuse("another process listens there"),
        Err(error) => Err(about("the file exists, and whether a server listens there is unknown", &error)),
    }
}

fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The file of a Unix socket. The socket keeps its inode, so no other file gets the same number.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, until the file is removed.
    id: Mutex<Option<(u64, u64)>>,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: Mutex::new(Some(id(path)?)) })
    }

    /// Removes the file once, if it is still the same.
    fn remove(&self) {
        let Some(ours) = self.id.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if id(&self.path).is_ok_and(|present| present == ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "removing the file of the Unix socket failed");
        }
    }
}

/// For a server that fails to start.
impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns device and inode of a file.
fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::setting::{Kind, Value};
    use std::net::TcpStream;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn bind(path: PathBuf, mode: u32) -> io::Result<Listener> {
        let addresses = [Address::Unix(path)].into_iter().collect();
        Ok(Listener::bind_all(&addresses, 8, FileMode(mode))?.pop().unwrap())
    }

    fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("millstream-listener-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("m.sock")
        }

        fn bind(&self, mode: u32) -> io::Result<Listener> {
            bind(self.socket(), mode)
        }

        fn refused(&self) -> String {
            self.bind(0o600).map(drop).unwrap_err().to_string()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_unix_socket_has_the_mode_and_goes_with_its_server() {
        let place = Place::new("mode");
        for mode in [0o660, 0o600, 0o666] {
            let listener = place.bind(mode).unwrap();
            assert_eq!(fs::metadata(place.socket()).unwrap().mode() & 0o777, mode);
            let _client = UnixStream::connect(place.socket()).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            assert_eq!((accepted.kind, peer), (SocketKind::Unix, Peer::Unix));
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!(listener.address().unwrap(), Address::Unix(place.socket()));
            listener.close();
            assert!(!place.socket().exists());
        }
        drop(place.bind(0o600).unwrap());
        assert!(!place.socket().exists(), "a server that fails to start removes its file");
    }

    #[test]
    fn a_stale_file_is_replaced_and_everything_else_is_kept() {
        let place = Place::new("stale");
        drop(UnixListener::bind(place.socket()).unwrap());
        assert!(place.socket().exists());
        let live = place.bind(0o600).unwrap();
        assert!(place.refused().contains("another process listens there"));
        assert!(UnixStream::connect(place.socket()).is_ok());
        drop(live);
        let live = UnixListener::bind(place.socket()).unwrap();
        assert!(place.refused().contains("another process listens there"));
        drop(live);
        fs::remove_file(place.socket()).unwrap();
        fs::write(place.socket(), "precious").unwrap();
        assert!(place.refused().contains("is not a socket"));
        assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
        fs::remove_file(place.socket()).unwrap();
        std::os::unix::fs::symlink(place.0.join("elsewhere"), place.socket()).unwrap();
        assert!(place.refused().contains("is not a socket"));
        assert!(fs::symlink_metadata(place.socket()).is_ok());
        fs::remove_file(place.socket()).unwrap();
        let datagrams = UnixDatagram::bind(place.socket()).unwrap();
        assert!(place.refused().contains("is unknown"));
        assert!(place.socket().exists());
        drop(datagrams);
    }

    #[test]
    fn a_file_of_another_server_is_not_removed() {
        let place = Place::new("ours");
        let first = place.bind(0o600).unwrap();
        fs::remove_file(place.socket()).unwrap();
        let second = place.bind(0o600).unwrap();
        first.close();
        drop(first);
        assert!(UnixStream::connect(place.socket()).is_ok());
        second.close();
        let third = place.bind(0o600).unwrap();
        drop(second);
        assert!(place.socket().exists(), "a file is removed once");
        drop(third);
    }

    #[test]
    fn servers_that_start_together_agree_on_one() {
        let place = Place::new("race");
        for _ in 0..20 {
            drop(UnixListener::bind(place.socket()).unwrap());
            let bound: Vec<Listener> = std::thread::scope(|scope| {
                let starting: Vec<_> = (0..4).map(|_| scope.spawn(|| place.bind(0o600).ok())).collect();
                starting.into_iter().filter_map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(bound.len(), 1);
            UnixStream::connect(place.socket()).unwrap();
        }
    }

    #[test]
    fn a_stranger_that_locks_the_directory_does_not_prevent_the_start() {
        let place = Place::new("locked");
        assert!(lock_directory(&place.0, DIRECTORY_LOCK_MAX).unwrap().is_some());
        let stranger = File::open(&place.0).unwrap();
        rustix::fs::flock(&stranger, FlockOperation::LockExclusive).unwrap();
        assert!(lock_directory(&place.0, Duration::ZERO).unwrap().is_none());
        let live = place.bind(0o600).unwrap();
        assert!(place.refused().contains("another process listens there"));
        drop(live);
    }

    #[test]
    fn an_ipv6_socket_accepts_ipv4_unless_another_socket_does() {
        let bind = |text: String| {
            let addresses = Addresses::read(&text, &Kind::Text).unwrap();
            Listener::bind_all(&addresses, 8, FileMode(0o600))
        };
        let both = bind("[::]:0".into()).unwrap();
        let port = both[0].address().unwrap().tcp().unwrap().port();
        assert!(!both[0].socket().only_v6().unwrap());
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (accepted, peer) = eventually(|| both[0].accept().ok());
        assert_eq!(accepted.kind, SocketKind::Tcp);
        assert!(matches!(peer, Peer::Ip(address) if address.is_ipv4()), "{peer}");
        drop(both);
        // The port may be taken again in the meantime.
        let each = eventually(|| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            bind(format!("0.0.0.0:{port},[::]:{port}")).ok()
        });
        assert!(each[1].socket().only_v6().unwrap());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let place = Place::new("missing");
        let why = bind(place.0.join("none/m.sock"), 0o600).map(drop).unwrap_err().to_string();
        assert!(why.contains("/none cannot be opened: No such file"), "{why}");
    }
}
