//! The identity that a client claims: from headers, or from the query string, because browsers cannot set
//! headers.

use base64::prelude::*;

use super::policy::Policy;
use crate::base::error::PeerFault;
use crate::base::names::{ClientId, Project};
use crate::base::secret::Secret;
use crate::operation::Author;
use crate::ws::handshake::{Refusal, UpgradeRequest};

/// The request header with the project.
const PROJECT_HEADER: &str = "x-project-id";
/// The request header with the client's id.
const CLIENT_HEADER: &str = "client-id";
/// The request header with the token, as in OpenStack.
const TOKEN_HEADER: &str = "x-auth-token";
/// The request header with the token, as in RFC 6750.
const BEARER_HEADER: &str = "authorization";
/// The scheme of [`BEARER_HEADER`]. Others are ignored: a proxy may use them.
const BEARER: &str = "bearer ";
/// How the offer of a subprotocol begins that carries the token, in base64url without padding. Browsers cannot set
/// headers.
const BEARER_OFFER: &str = "queuing-streaming.bearer.";

/// The identity of a client as sent, not checked yet.
#[derive(Default)]
pub struct Credentials {
    /// The name of the project.
    pub project: Option<String>,
    /// The id of the client.
    pub client: Option<String>,
    /// The bearer token. `None` if clients need not authenticate.
    pub token: Option<Secret>,
}

/// The identity that a client claims. Nobody has checked yet whether the client may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The project that the client names.
    pub project: Option<Project>,
    /// The client's id, as the author of messages.
    pub author: Author,
    /// The client's token.
    pub token: Option<Secret>,
}

impl Credentials {
    /// Reads the query string and the headers. Headers take precedence.
    pub fn read(request: &UpgradeRequest, policy: &Policy) -> Result<Self, Refusal> {
        let mut credentials = Self::default();
        let mut in_query = None;
        for (key, value) in form_urlencoded::parse(request.query().as_bytes()) {
            let field = match &*key {
                "project_id" => &mut credentials.project,
                "client_id" => &mut credentials.client,
                "token" if policy.reads_tokens && policy.auth_query_token => &mut in_query,
                _ => continue,
            };
            if value.is_empty() || field.is_some() {
                return Err(Refusal::new(400, format!("{key}: empty or given twice")));
            }
            *field = Some(value.into_owned());
        }
        for (name, field) in
            [(PROJECT_HEADER, &mut credentials.project), (CLIENT_HEADER, &mut credentials.client)]
        {
            if let Some(value) = request.header(name)? {
                *field = Some(value.to_owned());
            }
        }
        if policy.reads_tokens {
            let in_header = request.header(TOKEN_HEADER)?;
            let bearer = request.header(BEARER_HEADER)?.and_then(bearer);
            let offered = offered(request)?;
            let all = [in_header, bearer, offered.as_deref(), in_query.as_deref()];
            credentials.token = same(all.into_iter().flatten())?.map(Secret::new);
        }
        Ok(credentials)
    }

    /// Checks the names. A client without an id gets a random one.
    pub fn identify(self) -> Result<Identity, PeerFault> {
        let project = self.project.as_deref().map(Project::parse).transpose()?;
        let author = match &self.client {
            Some(id) => Author { client: ClientId::parse(id)?, is_known: true },
            None => Author { client: ClientId::random(), is_known: false },
        };
        Ok(Identity { project, author, token: self.token })
    }
}

/// Returns the token of an `Authorization` header, or `None` if it has another scheme.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(token.trim()).filter(|token| !token.is_empty())
}

/// Returns the token in the offered subprotocols.
fn offered(request: &UpgradeRequest) -> Result<Option<String>, Refusal> {
    let mut found = request.offered().filter_map(|name| name.strip_prefix(BEARER_OFFER));
    let Some(encoded) = found.next() else { return Ok(None) };
    let refusal = |why: &str| Refusal::new(400, format!("Sec-WebSocket-Protocol: {BEARER_OFFER}…: {why}"));
    if found.next().is_some() {
        return Err(refusal("given twice"));
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|token| !token.is_empty()) {
        Some(token) => Ok(Some(token)),
        None => Err(refusal("not base64url without padding, or not text")),
    }
}

/// Returns the token, or an error if the client sends different ones.
fn same<'a>(mut tokens: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, Refusal> {
    let Some(first) = tokens.next() else { return Ok(None) };
    if tokens.all(|token| token == first) {
        Ok(Some(first))
    } else {
        Err(Refusal::new(400, "credentials: the request has different tokens in different places"))
    }
}
