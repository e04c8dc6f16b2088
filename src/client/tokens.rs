//! The tokens of a client's connections, from one source.
//!
//! A source may block, so it is read on a thread of its own, never on an executor. Connections that need a token
//! at the same time share one reading. Many connections also share a token for a while.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::Sender;
use glommio::timer::Timer;

use super::error::ClientError;
use super::token_source::TokenSource;
use crate::auth::Secret;
use crate::process::terminal::{escaped, line_start, say};

/// How long a connection waits for a token. The reading itself continues, so a file system that hangs holds one
/// thread.
const OBTAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long many connections use one token before the source is read again, and the pause between two readings.
const SHARED_FOR: Duration = Duration::from_secs(5);
const SHARED_PAUSE: Duration = Duration::from_secs(1);

/// How many different messages are remembered, so that each is said once.
const TOLD_MAX: usize = 64;

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
    pub async fn obtain(self: Arc<Self>, old: Option<Secret>) -> Result<Secret, ClientError> {
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

    use super::super::token_source::tests::{CANARY, File};
    use super::*;
    use crate::client::on_executor;

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
