//! What all requests have, and the one that shows a token.

use serde_json::{Value, json};

use super::super::error::ClientError;
use super::super::wire::Target;
use crate::base::names::ClientId;

/// The action that shows a token.
pub(super) const AUTHENTICATE: &str = "authenticate";

/// The header with a token.
pub(super) const TOKEN: &str = "X-Auth-Token";

/// Returns the target of connections to `url`. A token is shown by a request, not by the handshake.
pub fn target(url: &str) -> Result<Target, ClientError> {
    Ok(Target { subprotocol: None, ..Target::parse(url, None, None)? })
}

/// Returns the headers of the requests of one client, with a client id of its own.
pub fn headers(project: &str) -> Value {
    json!({"Client-ID": ClientId::random().to_string(), "X-Project-ID": project})
}

/// Returns the request that shows a token.
pub fn authenticate(project: &str, token: &str) -> Value {
    json!({"action": AUTHENTICATE, "headers": {TOKEN: token, "X-Project-ID": project}, "body": {}})
}
