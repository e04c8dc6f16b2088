//! Renews the grant of one connection: obtains tokens when the session asks for them, and sends them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::error::ClientError;
use super::session::{Renewable, Want};
use super::tokens::Tokens;
use crate::auth::Secret;
use crate::ws::Sender;

/// A reading of the source.
type Reading = Pin<Box<dyn Future<Output = Result<Secret, ClientError>>>>;

/// Renews the grant of one connection.
pub(super) struct Renewer {
    tokens: Arc<Tokens>,
    /// The last token that the server has seen. Sending it again does not help.
    shown: Option<Secret>,
    reading: Option<Reading>,
}

impl fmt::Debug for Renewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewer").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl Renewer {
    /// Creates the renewer of a connection that has shown a token in its handshake.
    pub(super) fn new(tokens: Arc<Tokens>, shown: Secret) -> Self {
        Self { tokens, shown: Some(shown), reading: None }
    }

    /// Does what is due. Returns when to call again, unless the waker of `cx` says so earlier.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        operation: &mut dyn Renewable,
        sender: &mut Sender,
        out: &mut Vec<u8>,
    ) -> Option<Instant> {
        loop {
            let want = operation.renewal().poll(now);
            match operation.renewal().take_answer() {
                Some(Ok(())) => self.tokens.forget_told(),
                Some(Err(refusal)) => {
                    // After a failure of the server, the same token may be accepted later.
                    self.shown = self.shown.take().filter(|_| !refusal.is_transient());
                    let name = self.tokens.name();
                    self.tokens.tell(&format!("{name}: the server did not accept another token: {refusal}"));
                }
                None => {}
            }
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(read) = reading.as_mut().poll(cx) else { return None };
                self.reading = None;
                match read {
                    Ok(token) if self.shown.as_ref() != Some(&token) && operation.renewal().may_send(now) => {
                        operation.send_token(&token, sender, out);
                        operation.renewal().sent(now);
                        self.shown = Some(token);
                    }
                    Ok(_) => operation.renewal().delay(now),
                    Err(error) => {
                        self.tokens.tell(&format!("{error}; trying again until the token in use ends"));
                        operation.renewal().delay(now);
                    }
                }
                continue;
            }
            match want {
                Want::Nothing => return None,
                Want::Until(at) => return Some(at),
                Want::Token => self.reading = Some(Box::pin(self.tokens.clone().obtain(self.shown.clone()))),
            }
        }
    }
}
