//! The service manager that started the process: systemd, or another that speaks sd_notify(3).
//!
//! Without `NOTIFY_SOCKET` nothing is sent. A message that cannot be sent is logged and given up: the server
//! serves without its manager.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The variables by which a manager talks to this process. Its children must not inherit them.
pub const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How long to wait for a manager that is slow to read. A word that is lost is not repeated, except
/// [`Word::Alive`], which does not wait.
const SEND_WAIT: Duration = Duration::from_secs(1);

/// The most bytes of a status. systemd ignores a message of more than 4,096 bytes.
const STATUS_BYTES_MAX: usize = 512;

/// How often to say [`Word::Alive`] in the time after which the manager gives the process up. A shard may
/// stand still for most of that time, if it then runs again.
const CHECKS_PER_TIMEOUT: u32 = 8;

/// What the process tells its manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// The process serves, also after a reload.
    Ready,
    /// The process reloads its settings.
    Reloading,
    /// The process is about to end.
    Stopping,
    /// The process is alive.
    Alive,
    /// The present timeout of the manager, of the start or the stop, ends this much later at the earliest.
    Extend(Duration),
    /// A line of text for people.
    Status(&'a str),
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1"),
            Self::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let usec = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
                write!(f, "RELOADING=1\nMONOTONIC_USEC={usec}")
            }
            Self::Stopping => f.write_str("STOPPING=1"),
            Self::Alive => f.write_str("WATCHDOG=1"),
            Self::Extend(by) => write!(f, "EXTEND_TIMEOUT_USEC={}", by.as_micros()),
            Self::Status(text) => {
                let mut end = text.len().min(STATUS_BYTES_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                // A line break would begin another message.
                write!(f, "STATUS={}", text[..end].replace('\n', " "))
            }
        }
    }
}

/// Tells the manager what the process does.
pub fn tell(words: &[Word<'_>]) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    let lines: Vec<String> = words.iter().map(Word::to_string).collect();
    let wait = (words != [Word::Alive]).then_some(SEND_WAIT);
    if let Err(error) = send(&socket, lines.join("\n").as_bytes(), wait) {
        tracing::warn!(%error, ?socket, "the service manager cannot be told (NOTIFY_SOCKET)");
    }
}

/// Sends a message. Waits at most this long for room, or not at all.
fn send(socket: &OsString, message: &[u8], wait: Option<Duration>) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that reads nothing must not hold up the process.
    match wait {
        Some(_) => sender.set_write_timeout(wait)?,
        None => sender.set_nonblocking(true)?,
    }
    sender.send_to_addr(message, &address).map(drop)
}

/// Returns how long to wait between two [`Word::Alive`].
/// Returns `None` if the manager does not watch this process.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |variable| env::var(variable).ok()?.parse::<u64>().ok();
    let is_ours = env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID").is_some_and(|pid| pid == u64::from(std::process::id()));
    let usec = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0)?;
    Some(Duration::from_micros(usec) / CHECKS_PER_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lines_of_the_protocol() {
        let text = |word: Word<'_>| word.to_string();
        assert_eq!(text(Word::Extend(Duration::from_millis(1_500))), "EXTEND_TIMEOUT_USEC=1500000");
        assert_eq!(text(Word::Status("a\nREADY=1")), "STATUS=a READY=1");
        let reloading = text(Word::Reloading);
        let (first, usec) = reloading.split_once("\nMONOTONIC_USEC=").unwrap();
        assert!(first == "RELOADING=1" && usec.parse::<u64>().unwrap() > 0, "{reloading}");
    }

    #[test]
    fn a_message_reaches_a_path_and_an_abstract_address() {
        let name = format!("millstream-manager-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        for (socket, receiver) in
            [(path.clone().into_os_string(), by_path), (format!("@{name}").into(), by_name)]
        {
            send(&socket, b"READY=1", Some(SEND_WAIT)).unwrap();
            let mut said = [0; 16];
            let length = receiver.recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"READY=1");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(&path.into_os_string(), b"READY=1", Some(SEND_WAIT)).is_err());
    }

    #[test]
    fn a_long_status_is_cut_between_characters() {
        let text = Word::Status(&format!("a{}", "é".repeat(5_000))).to_string();
        assert_eq!(text, format!("STATUS=a{}", "é".repeat(255)));
    }

    #[test]
    fn a_word_waits_for_a_busy_manager_but_not_for_ever() {
        let name = format!("millstream-busy-manager-{}", std::process::id());
        let receiver =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        let socket: OsString = format!("@{name}").into();
        let full = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        while send(&socket, b"WATCHDOG=1", None).map_err(full).is_ok() {}
        let began = std::time::Instant::now();
        send(&socket, b"READY=1", Some(SEND_WAIT)).map_err(full).unwrap_err();
        assert!(began.elapsed() >= SEND_WAIT);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| send(&socket, b"READY=1", Some(Duration::from_secs(60))));
            let mut said = [0; 16];
            while {
                let length = receiver.recv(&mut said).unwrap();
                &said[..length] != b"READY=1"
            } {}
            sending.join().unwrap().unwrap();
        });
    }
}
