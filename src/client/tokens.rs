//! Where a client obtains its tokens: a file, a command, or the environment.
//!
//! Files and commands may block, so each is read on a thread of its own, never on an executor. Connections that
//! need a token at the same time share one reading. Many connections also share a token for a while.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::Sender;
use glommio::timer::Timer;

use super::error::ClientError;
use crate::auth::Secret;
use crate::process::command;
use crate::process::terminal::{escaped, line_start, say};

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// How long a command may run.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection waits for a token. The reading itself continues, so a file system that hangs holds one
/// thread.
const OBTAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long many connections use one token before the source is read again, and the pause between two readings.
const SHARED_FOR: Duration = Duration::from_secs(5);
const SHARED_PAUSE: Duration = Duration::from_secs(1);

/// How many different messages are remembered, so that each is said once.
const TOLD_MAX: usize = 64;

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
    fn read(&self) -> Result<Secret, ClientError> {
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
    fn name(&self) -> String {
        match self {
            Self::File(path) => format!("--token-file {}", path.display()),
            Self::Command(_) => "--token-command".into(),
            Self::Variable(name, _) => (*name).to_owned(),
        }
    }

    /// Returns a warning if users other than its owner can read the file.
    fn warning(&self) -> Option<String> {
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

type Answer = Result<Secret, String>;

/// What the readings of a source have given.
#[derive(Debug, Default)]
struct Readings {
    /// The token that the first connection uses, because it was just read.
    first: Option<Secret>,
    /// The last token, for sources that many connections share.
    last: Option<Secret>,
    /// When the last reading ended.
    at: Option<Instant>,
    /// The connections that wait for the reading that is under way, if one is.
    waiting: Option<Vec<Sender<Answer>>>,
    /// What was said already.
    told: BTreeSet<String>,
}

/// The tokens of a client.
#[derive(Debug)]
pub struct Tokens {
    source: TokenSource,
    is_shared: bool,
    readings: Mutex<Readings>,
}

/// What [`Tokens::obtain`] does next.
enum Step {
    Use(Secret),
    Pause(Duration),
    Wait(async_channel::Receiver<Answer>),
}

impl Tokens {
    /// Reads the first token. With `is_shared`, many connections use one token for a while. Says if other users
    /// can read the file. Blocks.
    pub fn load(source: TokenSource, is_shared: bool) -> Result<Arc<Self>, ClientError> {
        let first = source.read()?;
        if let Some(warning) = source.warning() {
            say(format_args!("millstream: WARNING: {}", escaped(&warning)));
        }
        let readings = Readings {
            first: Some(first.clone()),
            last: Some(first),
            at: Some(Instant::now()),
            ..Readings::default()
        };
        Ok(Arc::new(Self { source, is_shared, readings: Mutex::new(readings) }))
    }

    /// Returns whether the source may give another token later.
    pub fn can_change(&self) -> bool {
        !matches!(self.source, TokenSource::Variable(..))
    }

    /// Returns the name of the source in messages.
    pub(super) fn name(&self) -> String {
        self.source.name()
    }

    /// Makes the next connection read the source again, because the server did not accept the last token.
    pub(super) fn distrust(&self) {
        let mut readings = self.readings();
        (readings.first, readings.last) = (None, None);
    }

    /// Obtains a token. A token that many connections share is not read again for a while, unless it is `old`.
    pub(super) async fn obtain(self: Arc<Self>, old: Option<Secret>) -> Result<Secret, ClientError> {
        if let TokenSource::Variable(_, secret) = &self.source {
            return Ok(secret.clone());
        }
        let obtained = async {
            loop {
                match self.step(old.as_ref())? {
                    Step::Use(token) => return Ok(token),
                    Step::Pause(time) => {
                        Timer::new(time).await;
                    }
                    Step::Wait(answer) => {
                        let answer = answer.recv().await;
                        let ended = || Err("the reading of the token ended without a result".to_owned());
                        return answer.unwrap_or_else(|_| ended()).map_err(ClientError::Token);
                    }
                }
            }
        };
        let timeout = async {
            Timer::new(OBTAIN_TIMEOUT).await;
            let why = format!("{}: no token within {} s", self.name(), OBTAIN_TIMEOUT.as_secs());
            Err(ClientError::Token(why))
        };
        futures_lite::future::or(obtained, timeout).await
    }

    /// Says something about tokens once, until [`Self::forget_told`].
    pub(super) fn tell(&self, what: &str) {
        let mut readings = self.readings();
        if readings.told.contains(what) {
            return;
        }
        if readings.told.len() < TOLD_MAX {
            readings.told.insert(what.to_owned());
        }
        say(format_args!("{}millstream: {}", line_start(), escaped(what)));
    }

    /// Forgets what was said, because a renewal has succeeded.
    pub(super) fn forget_told(&self) {
        self.readings().told.clear();
    }

    fn readings(&self) -> MutexGuard<'_, Readings> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(self: &Arc<Self>, old: Option<&Secret>) -> Result<Step, ClientError> {
        let mut readings = self.readings();
        let (to, answer) = async_channel::bounded(1);
        if let Some(waiting) = &mut readings.waiting {
            waiting.push(to);
            return Ok(Step::Wait(answer));
        }
        if let Some(first) = readings.first.take().filter(|first| Some(first) != old) {
            return Ok(Step::Use(first));
        }
        if self.is_shared
            && let Some(age) = readings.at.map(|at| at.elapsed())
        {
            if let Some(last) = &readings.last
                && age < SHARED_FOR
                && Some(last) != old
            {
                return Ok(Step::Use(last.clone()));
            }
            if age < SHARED_PAUSE {
                return Ok(Step::Pause(SHARED_PAUSE - age));
            }
        }
        let of_thread = self.clone();
        let started = thread::Builder::new().name("token".into()).spawn(move || of_thread.run());
        started.map_err(|error| ClientError::Token(format!("{}: {error}", self.name())))?;
        readings.waiting = Some(vec![to]);
        Ok(Step::Wait(answer))
    }

    /// Reads the source once, on its thread.
    fn run(&self) {
        let answer = self.source.read().map_err(|error| match error {
            ClientError::Token(why) => why,
            error => error.to_string(),
        });
        let mut readings = self.readings();
        readings.at = Some(Instant::now());
        readings.last = answer.as_ref().ok().cloned();
        for one in readings.waiting.take().unwrap_or_default() {
            // Fails if the connection no longer waits.
            let _ = one.try_send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_lite::future::poll_once;

    use super::*;
    use crate::client::on_executor;

    const CANARY: &str = "canary-bb7b6d2f";

    /// A file that is removed at the end.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("millstream-token-{}-{name}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Self(path)
        }

        fn source(&self) -> TokenSource {
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

    #[test]
    fn secrets_do_not_appear_in_debug_output() {
        let tokens = Tokens::load(TokenSource::Variable("V", Secret::new(CANARY)), true).unwrap();
        assert!(!format!("{tokens:?}").contains(CANARY));
        let file = File::new("debug", CANARY.as_bytes());
        assert!(!format!("{:?}", Tokens::load(file.source(), true).unwrap()).contains(CANARY));
    }

    #[test]
    fn connections_that_ask_at_the_same_time_share_a_reading() {
        let pipe = std::env::temp_dir().join(format!("millstream-token-{}-gate", std::process::id()));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // Each reading waits for one line of the pipe. It gives the line as the token.
        let mut gate = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        gate.write_all(b"one\n").unwrap();
        let source = TokenSource::Command(format!("read line < {}; echo $line", pipe.display()));
        let tokens = Tokens::load(source, false).unwrap();
        on_executor(move || async move {
            assert_eq!(tokens.clone().obtain(None).await.unwrap().expose(), "one", "the token just read");
            let mut all: Vec<_> = (0..1_000).map(|_| Box::pin(tokens.clone().obtain(None))).collect();
            for one in &mut all {
                assert!(poll_once(one).await.is_none(), "the reading waits");
            }
            gate.write_all(b"two\n").unwrap();
            for one in all {
                assert_eq!(one.await.unwrap().expose(), "two");
            }
            gate.write_all(b"three\n").unwrap();
            assert_eq!(tokens.obtain(None).await.unwrap().expose(), "three", "read anew");
        });
        std::fs::remove_file(pipe).unwrap();
    }

    #[test]
    fn many_connections_share_a_token_for_a_while() {
        let file = File::new("shared", b"one");
        let tokens = Tokens::load(file.source(), true).unwrap();
        std::fs::write(&file.0, "two").unwrap();
        on_executor(move || async move {
            for _ in 0..1_000 {
                assert_eq!(tokens.clone().obtain(None).await.unwrap().expose(), "one");
            }
        });
    }

    #[test]
    fn a_shared_token_is_read_again_if_it_is_old_and_a_distrusted_one_always() {
        for is_shared in [true, false] {
            let file = File::new(&format!("old-{is_shared}"), b"one");
            let tokens = Tokens::load(file.source(), is_shared).unwrap();
            std::fs::write(&file.0, "two").unwrap();
            let (second, third) = on_executor({
                let path = file.0.clone();
                move || async move {
                    let second = tokens.clone().obtain(Some(Secret::new("one"))).await.unwrap();
                    std::fs::write(path, "three").unwrap();
                    tokens.distrust();
                    (second, tokens.obtain(None).await.unwrap())
                }
            });
            assert_eq!((second.expose(), third.expose()), ("two", "three"));
        }
    }
}
