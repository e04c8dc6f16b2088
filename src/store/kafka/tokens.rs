//! SASL's OAUTHBEARER (RFC 7628): sets tokens that the operator's command prints on every handle, before the
//! last token expires.
//!
//! librdkafka can fetch tokens itself only if it is built with curl, and only from one kind of provider; a
//! command works with any. One thread runs it, once for all handles.

use std::fmt;
use std::io::PipeWriter;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::native::{Handle, WeakHandle};
use crate::process::command;

/// How long the command may run, including its output.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// How long after a failure the command is run again.
const RETRY: Duration = Duration::from_secs(5);

/// The shortest time between two tokens.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// The part of a new token's remaining lifetime after which the next one is fetched.
const REFRESH_AT: f64 = 0.8;

/// Sets tokens on handles. Its thread, and a running command, end when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Supply>);

struct Supply {
    handles: Option<Sender<WeakHandle>>,
    /// The other end of the pipe that a running command is stopped by: dropping it ends the command.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Tokens {
    /// Starts the thread. It may run on the caller's cores.
    pub(super) fn start(command: String) -> std::io::Result<Self> {
        let (sender, handles) = mpsc::channel();
        let (stopped, stop) = std::io::pipe()?;
        let thread = std::thread::Builder::new()
            .name("kafka-tokens".into())
            .spawn(move || supply(&command, &handles, stopped.as_fd()))?;
        Ok(Self(Arc::new(Supply { handles: Some(sender), stop: Some(stop), thread: Some(thread) })))
    }

    /// Sets tokens on the handle while its client exists.
    pub(super) fn supply(&self, handle: &Handle) {
        if let Some(handles) = &self.0.handles {
            // Never fails: the thread ends after its senders.
            let _ = handles.send(handle.downgrade());
        }
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        drop(self.handles.take());
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has no effect any more.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

fn supply(command: &str, new: &Receiver<WeakHandle>, stop: BorrowedFd<'_>) {
    let mut handles: Vec<WeakHandle> = Vec::new();
    let mut token: Option<Token> = None;
    let mut fetch_at = Instant::now();
    loop {
        match new.recv_timeout(fetch_at.saturating_duration_since(Instant::now())) {
            Ok(handle) => {
                if let Some(token) = &token {
                    give(token, &handle);
                }
                // While the command fails, `give` does not run, so it removes no dead handles.
                handles.retain(WeakHandle::is_alive);
                handles.push(handle);
            }
            Err(RecvTimeoutError::Timeout) => match fetch(command, stop) {
                Ok(None) => return,
                Ok(Some(fetched)) => {
                    handles.retain(|handle| give(&fetched, handle));
                    fetch_at = Instant::now() + fetched.left(unix_now()).mul_f64(REFRESH_AT).max(REFRESH_MIN);
                    token = Some(fetched);
                }
                Err(why) => {
                    tracing::error!(why, "kafka_token_command failed; running it again in 5 s");
                    fetch_at = Instant::now() + RETRY;
                }
            },
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Sets a token. Returns false if the handle's client no longer exists.
///
/// During the call, the client survives its owner's drop. So batches that its messages point into must live
/// as long as the client ([`Handle::keep`]).
fn give(token: &Token, handle: &WeakHandle) -> bool {
    let Some(handle) = handle.upgrade() else { return false };
    if let Err(why) = handle.set_token(&token.value, &token.principal, token.expires_ms) {
        tracing::error!(why, "librdkafka refused a token of kafka_token_command");
    }
    true
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Runs the command and returns its token, or `None` if it was stopped.
fn fetch(command: &str, stop: BorrowedFd<'_>) -> Result<Option<Token>, String> {
    let Some(printed) = command::run(command, COMMAND_LIMIT, stop)? else { return Ok(None) };
    Token::parse(&printed, unix_now()).map(Some)
}

/// A proof of identity for brokers.
#[derive(Clone, PartialEq, Eq)]
struct Token {
    value: String,
    /// The identity that it proves.
    principal: String,
    /// When it expires, Unix milliseconds.
    expires_ms: i64,
}

/// A token endpoint's answer (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    expires_in: Option<u32>,
}

/// The claims of a JSON Web Token that are used here (RFC 7519, section 4.1).
#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

impl Token {
    /// Reads a token endpoint's answer, or a bare JSON Web Token.
    fn parse(printed: &str, now: Duration) -> Result<Self, String> {
        let answer = match printed.trim() {
            json if json.starts_with('{') => serde_json::from_str(json)
                .map_err(|error| format!("the output is not a token endpoint's answer: {error}"))?,
            bare => TokenResponse { access_token: bare.to_owned(), expires_in: None },
        };
        let value = answer.access_token;
        // RFC 6750, section 2.1: what may follow "Bearer".
        let is_b64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if value.is_empty() || !value.bytes().all(is_b64) {
            return Err("the output is not a token".into());
        }
        let claims = claims(&value).unwrap_or_default();
        let expires = match (answer.expires_in, claims.exp) {
            (Some(seconds), _) => now + Duration::from_secs(u64::from(seconds)),
            (None, Some(at)) => Duration::try_from_secs_f64(at).map_err(|error| format!("exp: {error}"))?,
            (None, None) => return Err("the token has no expiry: add expires_in or exp".into()),
        };
        if expires <= now {
            return Err("the token has expired".into());
        }
        let expires_ms = i64::try_from(expires.as_millis()).map_err(|error| format!("exp: {error}"))?;
        let principal = claims.sub.filter(|sub| !sub.contains('\0')).unwrap_or_else(|| "millstream".into());
        Ok(Self { value, principal, expires_ms })
    }

    /// Returns how long it is still valid.
    fn left(&self, now: Duration) -> Duration {
        Duration::from_millis(self.expires_ms.unsigned_abs()).saturating_sub(now)
    }
}

/// Returns the claims of a JSON Web Token, or `None` if it is not one.
fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    let json = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn jwt(claims: &str) -> String {
        format!("e30.{}.", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    fn parse(printed: &str) -> Result<(String, i64), String> {
        Token::parse(printed, NOW).map(|token| (token.principal, token.expires_ms))
    }

    #[test]
    fn a_token_is_a_jwt_or_the_answer_of_a_token_endpoint() {
        assert_eq!(parse(&(jwt(r#"{"sub":"me","exp":1060}"#) + "\n")), Ok(("me".into(), 1_060_000)));
        let answer = r#"{"access_token":"abc-._~+/=","token_type":"Bearer","expires_in":60}"#;
        assert_eq!(parse(answer), Ok(("millstream".into(), 1_060_000)));
        let both = format!(r#"{{"access_token":"{}","expires_in":5}}"#, jwt(r#"{"sub":"me","exp":1060}"#));
        assert_eq!(parse(&both), Ok(("me".into(), 1_005_000)));
        let token = Token::parse(answer, NOW).unwrap();
        assert_eq!((token.value.as_str(), token.left(NOW)), ("abc-._~+/=", Duration::from_secs(60)));
    }

    #[test]
    fn invalid_output_is_refused_without_being_shown() {
        for (printed, why) in [
            ("", "not a token"),
            ("<html>secret</html>", "not a token"),
            ("{\"error\":\"secret\"}", "not a token endpoint"),
            ("opaque-secret", "no expiry"),
            (&jwt(r#"{"exp":999}"#), "has expired"),
            (&jwt(r#"{"exp":-1}"#), "exp"),
            (&jwt(r#"{"exp":1e300}"#), "exp"),
        ] {
            let error = parse(printed).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{printed}: {error}");
        }
    }

    #[test]
    fn a_failing_command_is_reported() {
        let (stopped, _stop) = std::io::pipe().unwrap();
        let fetch = |command: &str| fetch(command, stopped.as_fd());
        assert!(fetch("exit 3").is_err_and(|why| why.contains("exit status: 3")));
        assert!(fetch("cat /dev/null").is_err_and(|why| why.contains("not a token")));
        let printed = "echo '{\"access_token\":\"abc\",\"expires_in\":60}'";
        assert!(fetch(printed).is_ok_and(|token| token.is_some_and(|token| token.value == "abc")));
    }

    #[test]
    fn dropping_it_ends_its_thread_and_the_command() {
        // Returns only because the command is killed.
        drop(Tokens::start("sleep 10000; true".into()).unwrap());
    }
}
