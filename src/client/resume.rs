//! Runs one application over as many connections as it takes, with a pause between them and a limit of
//! retries.

use std::time::Duration;

use glommio::timer::Timer;

use super::connection::open;
use super::driver::{Application, run};
use super::error::ClientError;
use super::session::Outcome;
use super::wire::Target;
use super::{backoff, tokens::Tokens};

/// The longest pause that a server can ask for with `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How long to wait for another token after a refused one. A file may just be replaced.
const TOKEN_PAUSE: Duration = Duration::from_secs(1);

/// How many handshakes in a row may be refused for their tokens.
const UNAUTHORIZED_MAX: u32 = 2;

/// An application that can continue on another connection.
pub trait Resume: Application {
    /// Returns whether nothing is left to do, however the connection ended.
    fn is_complete(&self) -> bool;

    /// Returns how the server ended the operation, if the operation failed.
    fn failure(&self) -> Option<&Outcome>;

    /// Returns a number that grows with every message received, acknowledged or refused. An application that
    /// may get no messages also counts accepted operations. Any growth resets the count of attempts.
    fn progress(&self) -> u64;

    /// Prepares to continue on a new connection after the old one was lost.
    fn reset(&mut self);
}

/// Runs `application` until it is complete. Gives up if a retry cannot help, or after `retries` attempts in a
/// row without progress. The error gives the reason, for the user. Calls `notice` with the reason each time a
/// connection ends and a retry follows.
pub async fn run_resumed(
    target: &Target,
    application: &mut impl Resume,
    retries: u32,
    mut notice: impl FnMut(&str),
) -> Result<(), String> {
    let (mut attempt, mut pauses, mut unauthorized) = (0, 0, 0);
    let tokens = target.tokens.as_deref();
    loop {
        let before = application.progress();
        let ended = run_once(target, application).await;
        // A disorderly end of the connection does no harm once everything is done.
        if application.is_complete() {
            return Ok(());
        }
        let is_refused = matches!(&ended, Err(error) if error.is_unauthorized());
        unauthorized = if is_refused { unauthorized + 1 } else { 0 };
        let (why, transient) = match (&ended, application.failure()) {
            (_, Some(outcome)) if outcome.is_unauthorized() => {
                let why = format!("the operation failed: {outcome}");
                another_token(tokens, why, true)
            }
            (_, Some(outcome)) => (format!("the operation failed: {outcome}"), outcome.is_transient()),
            (Err(error), None) if is_refused => {
                another_token(tokens, error.to_string(), unauthorized < UNAUTHORIZED_MAX)
            }
            (Err(error), None) => (error.to_string(), error.is_transient()),
            (Ok(()), None) => ("the server ended the operation early".to_owned(), true),
        };
        let progress = application.progress() > before;
        attempt = if progress { 0 } else { attempt + 1 };
        // A server that fails operations is in trouble even if it makes some progress, so pause longer.
        pauses = if progress && application.failure().is_none() { 0 } else { pauses + 1 };
        if !transient || attempt > retries {
            return Err(why);
        }
        notice(&why);
        let asked = match &ended {
            Err(error) => error.retry_after().min(RETRY_AFTER_MAX),
            Ok(()) => Duration::ZERO,
        };
        let least = if is_refused { TOKEN_PAUSE } else { asked };
        Timer::new(backoff(pauses).max(least)).await;
        application.reset();
    }
}

/// Decides whether another token can help after a 401, and completes the reason for the user. If so, the source is
/// read again.
fn another_token(tokens: Option<&Tokens>, why: String, may_retry: bool) -> (String, bool) {
    match tokens {
        None => (format!("{why} (give a token with --token-file or --token-command)"), false),
        Some(tokens) if !tokens.can_change() => {
            let name = tokens.name();
            (format!("{why} ({name} cannot be read again: use --token-file or --token-command)"), false)
        }
        Some(tokens) => {
            tokens.distrust();
            let why =
                if may_retry { why } else { format!("{why} (also after {} was read again)", tokens.name()) };
            (why, may_retry)
        }
    }
}

async fn run_once(target: &Target, application: &mut impl Application) -> Result<(), ClientError> {
    let (mut connection, mut wire) = open(target).await?;
    let result = run(&mut connection, &mut wire, application).await;
    connection.close().await;
    result
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use super::super::driver::Next;
    use super::super::session::Renewable;
    use super::super::wire::Wire;
    use super::*;
    use crate::shard::executor::{ExecutorSettings, spawn};

    /// An application that is never done.
    struct Endless;

    impl Application for Endless {
        fn handle_data(&mut self, _: &[u8], _: bool) -> Result<(), ClientError> {
            Ok(())
        }

        fn poll(&mut self, _: &mut Context<'_>, _: &mut Wire) -> Result<Next, ClientError> {
            Ok(Next::Wait)
        }

        fn operation(&mut self) -> Option<&mut dyn Renewable> {
            None
        }
    }

    impl Resume for Endless {
        fn is_complete(&self) -> bool {
            false
        }

        fn failure(&self) -> Option<&Outcome> {
            None
        }

        fn progress(&self) -> u64 {
            0
        }

        fn reset(&mut self) {}
    }

    #[test]
    fn the_servers_name_is_looked_up_again_at_each_connection() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        static MOVED_TO: OnceLock<SocketAddr> = OnceLock::new();
        fn lookup(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            let before: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
            let is_first = LOOKUPS.fetch_add(1, Ordering::SeqCst) == 0;
            Ok(vec![if is_first { before } else { *MOVED_TO.get().unwrap() }])
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        MOVED_TO.set(listener.local_addr().unwrap()).unwrap();
        let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let settings = ExecutorSettings { name: "test".into(), core: None };
        let client = spawn(settings, || async {
            // Nobody listens on port 1.
            let target = Target { lookup, ..Target::parse("ws://moves.invalid:1/", None, None).unwrap() };
            run_resumed(&target, &mut Endless, 1, |_| {}).await
        });
        assert!(client.unwrap().join().unwrap().is_err());
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 2);
        server.join().unwrap();
    }
}
