//! Handshake and frames of a client's connection, without I/O.

use super::address::{Address, Scheme};
use super::error::ClientError;
use super::resolve::{self, Lookup};
use crate::base::limits::CONTROL_PAYLOAD_BYTES_MAX;
use crate::base::names::{ClientId, Project};
use crate::front::SUBPROTOCOL;
use crate::ws::frame::Opcode;
use crate::ws::handshake::{ClientHandshake, ClientRequest};
use crate::ws::{Input, Receiver, Role, Sender};

/// The longest response to a handshake that is read, bytes.
const RESPONSE_BYTES_MAX: usize = 16 << 10;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: Address,
    /// The tenant; the server's default where absent.
    pub project: Option<Project>,
    /// Who this client is; absent: the server names it, for one connection.
    pub client: Option<ClientId>,
    /// What finds the addresses of the server's name, at each connection.
    pub(super) lookup: Lookup,
}

impl Target {
    /// Reads a `ws://host:port/path` URL. Its name is not resolved yet.
    pub fn parse(url: &str, project: Option<Project>, client: Option<ClientId>) -> Result<Self, ClientError> {
        let address = Address::parse(url, Scheme::Ws)?;
        Ok(Self { address, project, client, lookup: resolve::system })
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Wire {
    handshake: Option<(ClientHandshake, Vec<u8>)>,
    receiver: Receiver,
    /// Our frames.
    pub sender: Sender,
    /// Bytes to send.
    pub out: Vec<u8>,
    /// The server has pinged since [`Self::take_pinged`].
    pinged: bool,
}

impl Wire {
    /// Begins a connection: its handshake is the first that is sent.
    pub fn start(target: &Target) -> Self {
        let mut out = Vec::new();
        let project = target.project.as_ref().map(|project| ("X-Project-Id", project.to_string()));
        let client = target.client.map(|client| ("Client-ID", client.to_string()));
        let headers: Vec<_> = project.into_iter().chain(client).collect();
        let request = ClientRequest {
            host: target.address.authority(),
            path: target.address.path(),
            subprotocol: SUBPROTOCOL,
            headers: &headers,
        };
        let handshake = ClientHandshake::start(&request, &mut out);
        let (receiver, sender) = (Receiver::new(Role::Client), Sender::new(Role::Client));
        Self { handshake: Some((handshake, Vec::new())), receiver, sender, out, pinged: false }
    }

    /// Whether the server has accepted the connection.
    pub fn is_open(&self) -> bool {
        self.handshake.is_none()
    }

    /// Whether a ping of the server came since the last call.
    pub fn take_pinged(&mut self) -> bool {
        std::mem::take(&mut self.pinged)
    }

    /// Asks the server for a sign of life.
    pub fn ping(&mut self) {
        self.sender.control(&mut self.out, Opcode::Ping, &[]);
    }

    /// Bytes from the server; `each` gets every piece of its wsmessages, and whether it ends one.
    pub fn handle_received(
        &mut self,
        input: &mut [u8],
        mut each: impl FnMut(&[u8], bool) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let Some((handshake, mut response)) = self.handshake.take() else {
            return self.handle_frames(input, &mut each);
        };
        response.extend_from_slice(input);
        match handshake.handle(&response).map_err(ClientError::Refused)? {
            Some(used) => {
                let mut rest = response.split_off(used);
                self.handle_frames(&mut rest, &mut each)
            }
            None if response.len() > RESPONSE_BYTES_MAX => {
                Err(ClientError::Broken("an endless handshake".into()))
            }
            None => {
                self.handshake = Some((handshake, response));
                Ok(())
            }
        }
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
                    return Err(ClientError::Broken(format!("frames that deserve close code {}", code.0)));
                }
            }
        }
    }
}
