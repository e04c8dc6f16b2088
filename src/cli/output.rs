//! Standard output of subcommands that print results.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::Failure;

/// The exit code when the reader closes standard output early. A shell shows the same code for a command that
/// SIGPIPE ended.
pub(super) const CLOSED: u8 = 141;

/// How long a command goes on after the reader of its output is gone: it may be about to end by itself, or by the signal that
/// has ended the reader.
const UNREAD_GRACE: Duration = Duration::from_millis(500);

/// Calls `stop` soon after nobody can read standard output any more: the other end of a pipe or a socket is closed. A command
/// that has nothing to write would not notice. Returns what `stop` returns then: false if the command stops already, for
/// another reason.
pub(super) fn stop_when_unread(stop: impl FnOnce() -> bool + Send + 'static) -> Arc<AtomicBool> {
    let is_unread = Arc::new(AtomicBool::new(false));
    let unread = is_unread.clone();
    std::thread::spawn(move || {
        let stdout = io::stdout();
        loop {
            // Errors are reported whether they are asked for or not. Files have none.
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut watched, None) {
                Ok(_) if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                    std::thread::sleep(UNREAD_GRACE);
                    return unread.store(stop(), Ordering::Relaxed);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
    is_unread
}

/// Buffered standard output. If its reader is gone, the process exits quietly with [`CLOSED`]. Call
/// [`Self::finish`] to write what is still buffered.
#[derive(Debug)]
pub(super) struct Output(BufWriter<Stdout>);

impl Output {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// Returns whether standard output is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.0.get_ref().is_terminal()
    }

    /// Flushes the buffer.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        Ok(self.flush()?)
    }
}

fn checked<T>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(i32::from(CLOSED)),
        // `write_all` retries after this error.
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
        written => written,
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        checked(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        checked(self.0.flush())
    }
}

/// Writes a value as one line of JSON. Escapes non-ASCII characters that could affect a terminal.
pub(super) fn write_json(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut out, Harmless))?;
    out.write_all(b"\n")
}

/// A JSON formatter that also escapes control characters above U+001F, which JSON itself allows unescaped.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        // The fast path, for example for long base64 text.
        if fragment.bytes().all(|byte| byte.is_ascii() && byte != 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        for char in fragment.chars() {
            let mut buffer = [0; 4];
            if (char.is_ascii() && char != '\u{7f}') || char.is_alphanumeric() {
                writer.write_all(char.encode_utf8(&mut buffer).as_bytes())?;
            } else {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_harmless_on_a_terminal_and_keeps_the_text() {
        let text = "\x1b[31m \u{9b}31m \u{202e} \u{7f} ü 😀 \"q\"\n";
        let mut out = Vec::new();
        write_json(&mut out, &text).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line, "\"\\u001b[31m \\u009b31m \\u202e \\u007f ü \\ud83d\\ude00 \\\"q\\\"\\n\"\n");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
