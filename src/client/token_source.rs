//! Where a client obtains its tokens: a file, a command, or the environment.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::ClientError;
use crate::auth::Secret;
use crate::process::command;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// How long a command may run.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a client obtains its tokens.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A file that contains only the token.
    File(PathBuf),
    /// A command for `sh` that prints the token.
    Command(String),
    /// A variable of the environment, with its name and value. It never changes.
    Variable(&'static str, Secret),
}

impl TokenSource {
    /// Reads the token. Blocks.
    pub(super) fn read(&self) -> Result<Secret, ClientError> {
        self.checked(match self {
            Self::File(path) => read_file(path),
            Self::Command(text) => run_command(text, COMMAND_TIMEOUT),
            Self::Variable(_, secret) => Ok(secret.expose().to_owned()),
        })
    }

    /// Makes a token of a text, or an error that names the source and never shows the text.
    fn checked(&self, text: Result<String, String>) -> Result<Secret, ClientError> {
        let token = text.and_then(|text| {
            let token = text.trim();
            match token.bytes().position(|byte| !byte.is_ascii_graphic()) {
                _ if token.is_empty() => Err("no token in it".to_owned()),
                _ if token.len() > TOKEN_BYTES_MAX => Err(too_long()),
                Some(at) => Err(format!(
                    "not a token: byte {} is not a visible ASCII character; only the token may be in it",
                    at + 1
                )),
                None => Ok(Secret::new(token)),
            }
        });
        token.map_err(|why| ClientError::Token(format!("{}: {why}", self.name())))
    }

    /// Returns the name in messages. A command is not shown, because it may contain a secret.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => format!("--token-file {}", path.display()),
            Self::Command(_) => "--token-command".into(),
            Self::Variable(name, _) => (*name).to_owned(),
        }
    }

    /// Returns a warning if users other than its owner can read the file.
    pub(super) fn warning(&self) -> Option<String> {
        let Self::File(path) = self else { return None };
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        (mode & 0o004 != 0).then(|| format!("{}: every user can read it: chmod o-r", self.name()))
    }
}

fn too_long() -> String {
    format!("longer than a token may be: {TOKEN_BYTES_MAX} bytes")
}

fn read_file(path: &Path) -> Result<String, String> {
    let text = |error: io::Error| error.to_string();
    // Opening a named pipe must not wait for its writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(text)?;
    if !file.metadata().map_err(text)?.is_file() {
        return Err("not a regular file".into());
    }
    let mut bytes = Vec::new();
    // One more than allowed shows that the file is too long.
    file.take(TOKEN_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() > TOKEN_BYTES_MAX {
        return Err(too_long());
    }
    String::from_utf8(bytes).map_err(|_| "not a token: not a text".into())
}

fn run_command(text: &str, limit: Duration) -> Result<String, String> {
    // Nothing stops the command early. It ends with the process.
    let (stopped, _stop) = io::pipe().map_err(|error| error.to_string())?;
    let printed = command::run(text, limit, stopped.as_fd())?;
    Ok(printed.unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const CANARY: &str = "canary-bb7b6d2f";

    /// A file that is removed at the end.
    pub struct File(pub PathBuf);

    impl File {
        pub fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("millstream-token-{}-{name}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Self(path)
        }

        pub fn source(&self) -> TokenSource {
            TokenSource::File(self.0.clone())
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn why(source: &TokenSource) -> String {
        source.read().unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_trimmed_and_what_is_no_token_is_refused_without_showing_it() {
        let file = File::new("good", format!("  {CANARY}\r\n\n").as_bytes());
        assert_eq!(file.source().read().unwrap().expose(), CANARY);
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        for (name, content, words) in [
            ("empty", &b" \n"[..], "no token in it"),
            ("long", long.as_bytes(), "16384 bytes"),
            ("two", format!("{CANARY} {CANARY}").as_bytes(), "byte 16 is not"),
            ("header", format!("{CANARY}\r\nX: y").as_bytes(), "byte 16 is not"),
            ("binary", &[0xff, 0xfe], "not a text"),
        ] {
            let file = File::new(name, content);
            let why = why(&file.source());
            assert!(why.contains(words) && why.contains("--token-file"), "{why}");
            assert!(!why.contains(CANARY), "{why}");
        }
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_and_nothing_waits_for_a_pipe() {
        let pipe = std::env::temp_dir().join(format!("millstream-token-{}-pipe", std::process::id()));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [pipe.clone(), "/".into(), "/dev/zero".into()] {
            assert!(why(&TokenSource::File(path)).contains("not a regular file"));
        }
        std::fs::remove_file(pipe).unwrap();
        assert!(why(&TokenSource::File("/no/such/file".into())).contains("/no/such/file: No such file"));
    }

    #[test]
    fn a_command_gives_its_output_or_says_why_not() {
        let of = |text: &str| TokenSource::Command(text.into());
        assert_eq!(of(&format!("echo {CANARY}")).read().unwrap().expose(), CANARY);
        for (command, words) in [
            (format!("echo {CANARY}; exit 3"), "exit status: 3"),
            (format!("echo {CANARY} >/dev/null"), "no token in it"),
            (format!("yes {CANARY}"), "prints more than"),
            (format!("head -c 20000 /dev/zero | tr '\\0' x; # {CANARY}"), "16384 bytes"),
        ] {
            let why = why(&of(&command));
            assert!(why.contains(words) && why.contains("--token-command"), "{why}");
            assert!(!why.contains(CANARY), "{why}");
        }
        let slow = run_command("sleep 1000", Duration::from_millis(1)).unwrap_err();
        assert!(slow.contains("still ran"), "{slow}");
    }

    #[test]
    fn only_a_file_that_every_user_can_read_is_warned_of() {
        let file = File::new("mode", b"x");
        for (mode, warns) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&file.0, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(file.source().warning().is_some(), warns, "{mode:o}");
        }
    }
}
