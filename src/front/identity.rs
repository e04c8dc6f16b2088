//! The identity of a client: from headers, or from the query string, because browsers cannot set headers.

use crate::base::error::PeerFault;
use crate::base::names::{ClientId, Project};
use crate::operation::Author;
use crate::ws::handshake::{Refusal, UpgradeRequest};

/// The request header with the project.
const PROJECT_HEADER: &str = "x-project-id";
/// The request header with the client's id.
const CLIENT_HEADER: &str = "client-id";
/// The request header with the token.
const TOKEN_HEADER: &str = "x-auth-token";

/// The identity of a client as sent, not checked yet.
#[derive(Default)]
pub struct Credentials {
    /// The name of the project.
    pub project: Option<String>,
    /// The id of the client.
    pub client: Option<String>,
    /// The bearer token.
    pub token: Option<String>,
}

/// The identity of a client. Nobody has checked yet whether the client may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The project that the client works in.
    pub project: Project,
    /// The client's id, as the author of messages.
    pub author: Author,
}

impl Credentials {
    /// Reads the query string and the headers. Headers take precedence.
    pub fn read(request: &UpgradeRequest) -> Result<Self, Refusal> {
        let mut credentials = Self::default();
        for (key, value) in form_urlencoded::parse(request.query().as_bytes()) {
            let field = match &*key {
                "project_id" => &mut credentials.project,
                "client_id" => &mut credentials.client,
                "token" => &mut credentials.token,
                _ => continue,
            };
            if value.is_empty() || field.is_some() {
                return Err(Refusal::new(400, format!("{key}: empty or given twice")));
            }
            *field = Some(value.into_owned());
        }
        for (name, field) in [
            (PROJECT_HEADER, &mut credentials.project),
            (CLIENT_HEADER, &mut credentials.client),
            (TOKEN_HEADER, &mut credentials.token),
        ] {
            if let Some(value) = request.header(name)? {
                *field = Some(value.to_owned());
            }
        }
        Ok(credentials)
    }

    /// Checks the names. A client without an id gets a random one.
    pub fn identify(&self, default_project: &Project) -> Result<Identity, PeerFault> {
        let project = match &self.project {
            Some(name) => Project::parse(name)?,
            None => default_project.clone(),
        };
        let author = match &self.client {
            Some(id) => Author { client: ClientId::parse(id)?, is_known: true },
            None => Author { client: ClientId::random(), is_known: false },
        };
        Ok(Identity { project, author })
    }
}
