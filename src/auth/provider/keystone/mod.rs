//! Provider keystone: tokens of OpenStack Keystone, API v3.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | what Keystone says of a token, and the grant for it |
//! | `account` | the server's own account |
//! | `client` | asks Keystone |

mod account;
mod client;

pub(in crate::auth) use account::Account;
pub(in crate::auth) use client::{Client, LookupFault};

use std::sync::Arc;

use serde_json::Value;

use super::jwt::rules;
use super::{Need, Opinion};
use crate::access::{Grant, Projects};
use crate::auth::question::Denial;
use crate::auth::settings::Settings;
use crate::base::clock::Now;
use crate::base::millis::UnixMillis;
use crate::base::names::Project;
use crate::base::secret::Secret;

/// The longest token that Keystone is asked about, in bytes. Its own take some 250, and those with signatures 1,000.
/// Longer ones do not fit into a header that every server before Keystone accepts.
const TOKEN_BYTES_MAX: usize = 4 << 10;

/// What Keystone says of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::auth) struct Facts {
    /// The id of the user.
    user: Arc<str>,
    /// The project that the token is for. `None` if it is for none.
    project: Option<Project>,
    /// The names of the user's roles there.
    roles: Arc<[Box<str>]>,
    /// When the token expires.
    expires: UnixMillis,
}

/// Looks at a token: only Keystone knows whether it is one of its.
pub(in crate::auth) fn judge(token: &Secret) -> Opinion {
    let text = token.expose();
    // Anything else cannot be sent as a header.
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Opinion::NotMine(Denial::Unknown);
    }
    Opinion::Ask(Need::Keystone(token.clone()))
}

impl Facts {
    /// Reads the answer to `GET /v3/auth/tokens`.
    fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let token = body.get("token")?;
        let user = token.get("user")?.get("id")?.as_str().filter(|id| !id.is_empty())?;
        let project = match token.get("project") {
            None | Some(Value::Null) => None,
            // A project whose id cannot be a project here has no place to work in.
            Some(project) => Project::parse(project.get("id")?.as_str()?).ok(),
        };
        let roles = token.get("roles").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let roles = roles.iter().filter_map(|role| role.get("name")?.as_str()).map(Into::into).collect();
        Some(Self { user: user.into(), project, roles, expires: time(token.get("expires_at")?)? })
    }

    /// Returns the grant of these facts.
    pub(in crate::auth) fn grant(&self, settings: &Settings, now: Now) -> Result<Grant, Denial> {
        if self.expires <= now.unix {
            return Err(Denial::Expired);
        }
        let any =
            settings.keystone_any_project_roles.split(',').map(str::trim).filter(|role| !role.is_empty());
        let has = |role: &str| self.roles.iter().any(|one| **one == *role);
        let projects = if any.into_iter().any(has) {
            Projects::Any
        } else {
            Projects::Listed(self.project.iter().cloned().collect())
        };
        Ok(Grant {
            principal: format!("keystone:{}", self.user).into(),
            projects,
            rules: rules(settings, self.roles.iter().map(|role| &**role)),
            expires: Some(self.expires),
        })
    }
}

/// Reads a time like `2026-11-29T02:00:00.000000Z`.
fn time(value: &Value) -> Option<UnixMillis> {
    let at = humantime::parse_rfc3339(value.as_str()?).ok()?;
    at.duration_since(std::time::UNIX_EPOCH).ok().map(UnixMillis::from_epoch)
}

#[cfg(test)]
pub(in crate::auth) mod tests;
