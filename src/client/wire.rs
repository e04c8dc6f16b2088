//! Handshake and frames of a client's connection, without I/O.

use std::net::{SocketAddr, ToSocketAddrs};

use super::error::ClientError;
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;
use crate::names::{ClientId, Project};
use crate::ws::frame::Opcode;
use crate::ws::handshake::{ClientHandshake, ClientRequest};
use crate::ws::{Input, Receiver, Role, Sender};

/// The longest response to a handshake that is read, bytes.
const RESPONSE_BYTES_MAX: usize = 16 << 10;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// The tenant; the server's default where absent.
    pub project: Option<Project>,
    /// Who this client is; absent: the server names it, for one connection.
    pub client: Option<ClientId>,
}

impl Target {
    /// Reads a `ws://host:port/path` URL.
    pub fn parse(url: &str, project: Option<Project>, client: Option<ClientId>) -> Result<Self, ClientError> {
        let bad = |why: String| ClientError::Address(format!("{url}: {why}"));
        let Some(rest) = url.strip_prefix("ws://") else { return Err(bad("not a ws:// address".into())) };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses = with_port.to_socket_addrs().map_err(|error| bad(error.to_string()))?;
        let address = addresses.next().ok_or_else(|| bad("no such host".into()))?;
        Ok(Self { address, host: host.to_owned(), path: format!("/{path}"), project, client })
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
}

impl Wire {
    /// Begins a connection: its handshake is the first that is sent.
    pub fn start(target: &Target) -> Self {
        let mut out = Vec::new();
        let request = ClientRequest {
            host: &target.host,
            path: &target.path,
            project: target.project.as_ref(),
            client: target.client,
        };
        let handshake = ClientHandshake::start(&request, &mut out);
        let (receiver, sender) = (Receiver::new(Role::Client), Sender::new(Role::Client));
        Self { handshake: Some((handshake, Vec::new())), receiver, sender, out }
    }

    /// Whether the server has accepted the connection.
    pub fn is_open(&self) -> bool {
        self.handshake.is_none()
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
