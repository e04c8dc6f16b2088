//! The handshake and the frames of one connection, without I/O.

use std::fmt;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use super::address::{Address, Scheme};
use super::error::ClientError;
use super::renewer::Renewer;
use super::resolve::{self, Lookup};
use super::session::Renewable;
use super::tokens::Tokens;
use super::trust::Trust;
use crate::auth::Secret;
use crate::base::limits::CONTROL_PAYLOAD_BYTES_MAX;
use crate::base::names::{ClientId, Project};
use crate::front::{Endpoint, SUBPROTOCOL};
use crate::ws::frame::Opcode;
use crate::ws::handshake::{ClientHandshake, ClientRequest, Refusal};
use crate::ws::{Input, MessageKind, Receiver, Role, Sender};

/// The longest accepted response to a handshake, in bytes.
const RESPONSE_BYTES_MAX: usize = 16 << 10;

/// How an alert of TLS begins: its type, and the first byte of the version.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// Where to connect, and with which project and client id.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address of the server.
    pub address: Address,
    /// The project (tenant). `None` means the server's default.
    pub project: Option<Project>,
    /// The id of this client. `None` lets the server assign one for each connection.
    pub client: Option<ClientId>,
    /// Which servers to trust. Needed for addresses with TLS.
    pub trust: Option<Trust>,
    /// Where the client obtains its tokens. `None` sends no token.
    pub tokens: Option<Arc<Tokens>>,
    /// The subprotocol to offer. `None` offers none.
    pub subprotocol: Option<&'static str>,
    /// The function that resolves the server's name at each connection.
    pub(super) lookup: Lookup,
}

impl Target {
    /// Parses a URL like `ws://host:port/path`. Does not resolve the name.
    pub fn parse(url: &str, project: Option<Project>, client: Option<ClientId>) -> Result<Self, ClientError> {
        let address = Address::parse(url, Scheme::Ws)?;
        Ok(Self {
            address,
            project,
            client,
            trust: None,
            tokens: None,
            subprotocol: Some(SUBPROTOCOL),
            lookup: resolve::system,
        })
    }

    /// Returns whether servers speak the Zaqar API at the path of the address.
    pub fn is_of_zaqar(&self) -> bool {
        let path = self.address.path().split('?').next().unwrap_or_default();
        Endpoint::of(path, false) == Endpoint::Zaqar
    }

    /// Sets which servers to trust.
    #[must_use]
    pub fn trusting(self, trust: Option<Trust>) -> Self {
        Self { trust, ..self }
    }

    /// Sets where the client obtains its tokens.
    #[must_use]
    pub fn authenticating(self, tokens: Option<Arc<Tokens>>) -> Self {
        Self { tokens, ..self }
    }
}

/// The protocol state of one connection: its handshake, then its frames.
pub struct Wire {
    handshake: Option<(ClientHandshake, Vec<u8>)>,
    receiver: Receiver,
    /// Writes this client's frames.
    pub sender: Sender,
    /// The bytes that are ready to be sent to the server.
    pub out: Vec<u8>,
    /// Whether the server has pinged since [`Self::take_pinged`].
    pinged: bool,
    /// The token of the handshake, until it is complete.
    shown: Option<Secret>,
    /// Renews the grant, if there may be other tokens.
    renewer: Option<Renewer>,
}

/// Leaves out the bytes to send: they may contain a token.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Wire");
        shown.field("is_open", &self.is_open()).field("renewer", &self.renewer).finish_non_exhaustive()
    }
}

impl Wire {
    /// Starts a connection without a token, and appends its handshake to `out`.
    pub fn start(target: &Target) -> Self {
        Self::with_token(target, None)
    }

    /// Starts a connection, and appends its handshake to `out`.
    pub fn with_token(target: &Target, token: Option<Secret>) -> Self {
        let mut out = Vec::new();
        let project = target.project.as_ref().map(|project| ("X-Project-Id", project.to_string()));
        let client = target.client.map(|client| ("Client-ID", client.to_string()));
        let bearer = token.as_ref().map(|token| ("Authorization", format!("Bearer {}", token.expose())));
        let headers: Vec<_> = project.into_iter().chain(client).chain(bearer).collect();
        let request = ClientRequest {
            host: target.address.authority(),
            path: target.address.path(),
            subprotocol: target.subprotocol,
            headers: &headers,
        };
        let handshake = ClientHandshake::start(&request, &mut out);
        let (receiver, sender) = (Receiver::new(Role::Client), Sender::new(Role::Client));
        let tokens = target.tokens.as_ref().filter(|tokens| tokens.can_change());
        let renewer = tokens.zip(token.clone()).map(|(tokens, token)| Renewer::new(tokens.clone(), token));
        Self {
            handshake: Some((handshake, Vec::new())),
            receiver,
            sender,
            out,
            pinged: false,
            shown: token,
            renewer,
        }
    }

    /// Returns whether the handshake is complete.
    pub fn is_open(&self) -> bool {
        self.handshake.is_none()
    }

    /// Returns whether the server has pinged since the last call.
    pub fn take_pinged(&mut self) -> bool {
        std::mem::take(&mut self.pinged)
    }

    /// Renews the grant of the connection if that is due. Returns when to call again, unless the waker of `cx` says
    /// so earlier.
    pub(super) fn renew(&mut self, cx: &mut Context<'_>, operation: &mut dyn Renewable) -> Option<Instant> {
        let Self { renewer, sender, out, .. } = self;
        renewer.as_mut()?.poll(cx, Instant::now(), operation, sender, out)
    }

    /// Appends a whole text message.
    pub fn text(&mut self, text: &[u8]) {
        self.message(MessageKind::Text, text);
    }

    /// Appends a whole binary message.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.message(MessageKind::Binary, bytes);
    }

    fn message(&mut self, kind: MessageKind, payload: &[u8]) {
        self.sender.data(&mut self.out, kind, true, payload.len(), |out| out.extend_from_slice(payload));
    }

    /// Appends a ping, which the server has to answer.
    pub fn ping(&mut self) {
        self.sender.control(&mut self.out, Opcode::Ping, &[]);
    }

    /// Handles bytes from the server. Calls `each` with every piece of a WebSocket message, and whether the
    /// piece is the last one.
    pub fn handle_received(
        &mut self,
        input: &mut [u8],
        mut each: impl FnMut(&[u8], bool) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let Some((handshake, mut response)) = self.handshake.take() else {
            return self.handle_frames(input, &mut each);
        };
        response.extend_from_slice(input);
        if response.starts_with(&TLS_ALERT) {
            let how = "the server answered with TLS: is this its TLS port? Then write wss://";
            return Err(ClientError::Broken(how.into()));
        }
        match handshake.handle(&response).map_err(|refusal| self.refused(refusal))? {
            Some(used) => {
                self.shown = None;
                let mut rest = response.split_off(used);
                self.handle_frames(&mut rest, &mut each)
            }
            None if response.len() > RESPONSE_BYTES_MAX => {
                Err(ClientError::Broken("the response to the handshake is too long".into()))
            }
            None => {
                self.handshake = Some((handshake, response));
                Ok(())
            }
        }
    }

    /// Makes an error of a refusal. A proxy may send back what it has received, so the token is left out.
    fn refused(&self, mut refusal: Refusal) -> ClientError {
        if let Some(shown) = &self.shown {
            refusal.reason = refusal.reason.replace(shown.expose(), "…");
        }
        ClientError::Refused(refusal)
    }

    fn handle_frames(
        &mut self,
        input: &mut [u8],
        each: &mut impl FnMut(&[u8], bool) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut rest = input;
        loop {
            match self.receiver.handle(rest) {
                Ok(Input::More) => return Ok(()),
                Ok(Input::Data { payload, fin, .. }) => {
                    let end = payload.end;
                    each(&rest[payload], fin)?;
                    rest = &mut rest[end..];
                }
                Ok(Input::Ping { used, payload }) => {
                    debug_assert!(payload.as_slice().len() <= CONTROL_PAYLOAD_BYTES_MAX);
                    self.sender.control(&mut self.out, Opcode::Pong, payload.as_slice());
                    self.pinged = true;
                    rest = &mut rest[used..];
                }
                Ok(Input::Pong { used }) => rest = &mut rest[used..],
                Ok(Input::Close { code }) => return Err(ClientError::Closed(code)),
                Err(code) => {
                    return Err(ClientError::Broken(format!("invalid frame (close code {})", code.0)));
                }
            }
        }
    }
}
