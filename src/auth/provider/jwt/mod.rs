//! Provider jwt: JSON Web Tokens (RFC 7519), signed with keys of a JSON Web Key Set.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | which tokens are accepted, and the grant of one |
//! | `compact` | the parts of a token, and which headers are accepted |
//! | `claims` | what a token says |
//! | `keys` | the keys, each with its algorithm |
//! | `refresh` | when the keys are fetched again |

mod claims;
mod compact;
mod keys;
mod refresh;

pub(in crate::auth) use keys::KeySet;
pub(in crate::auth) use refresh::{Refresh, Want};

use std::sync::Arc;

use self::claims::Claims;
use self::compact::Compact;
use self::keys::Thumbprint;
use super::{Evidence, Need, Opinion};
use crate::access::{Grant, Projects, Rule};
use crate::auth::question::Denial;
use crate::auth::settings::Settings;
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};

/// How far the clock of an issuer may be ahead of the server's when a token begins to be valid. The end has no leeway.
const LEEWAY: Millis = Millis::from_secs(30);

/// A token whose signature was verified.
#[derive(Clone, Debug)]
pub(in crate::auth) struct Signed {
    /// The claims, as JSON.
    payload: Arc<[u8]>,
    /// The key that signed it.
    key: Thumbprint,
}

/// Judges a token with the keys in memory.
pub(in crate::auth) fn judge(settings: &Settings, keys: &KeySet, now: Now, token: &str) -> Opinion {
    let compact = match Compact::parse(token) {
        Ok(compact) => compact,
        Err(compact::Fault::OtherFormat) => return Opinion::NotMine(Denial::Unknown),
        Err(compact::Fault::Refused) => return Opinion::NotMine(Denial::Invalid),
    };
    // Whoever issued it, this provider knows it only by the issuer.
    let Some(claims) = Claims::parse(&compact.payload) else { return Opinion::NotMine(Denial::Invalid) };
    if claims.issuer() != Some(&*settings.jwt_issuer) {
        return Opinion::NotMine(Denial::Invalid);
    }
    let header = &compact.header;
    let key = match keys.find(header) {
        keys::Found::Key(key) => key,
        keys::Found::Unknown(kid) => return Opinion::Ask(Need::Key(kid)),
        keys::Found::Ambiguous => return Opinion::Denied(Denial::Invalid),
    };
    let algorithm = key.algorithm;
    if header.algorithm != algorithm || !key.verifies(algorithm, &compact) {
        return Opinion::Denied(Denial::Invalid);
    }
    match grant(settings, &claims, now) {
        Ok(grant) => {
            let signed = Signed { payload: compact.payload.into(), key: key.thumbprint };
            Opinion::Granted(grant, Evidence::Signed(signed))
        }
        Err(denial) => Opinion::Denied(denial),
    }
}

/// Judges a token with a JSON Web Key Set alone, without the threads. For fuzzers.
pub fn verify(settings: &Settings, key_set: &[u8], unix: UnixMillis, token: &str) -> Result<Grant, Denial> {
    let keys = KeySet::read(key_set).map_err(|_| Denial::Unavailable)?;
    match judge(settings, &keys, Now { unix, ..Now::default() }, token) {
        Opinion::Granted(grant, _) => Ok(grant),
        Opinion::NotMine(denial) | Opinion::Denied(denial) => Err(denial),
        Opinion::Ask(_) => Err(Denial::Unknown),
    }
}

impl Signed {
    /// Judges the token again, with other settings or keys. Keys that are not known yet (`None`) revoke nothing.
    pub(in crate::auth) fn grant(
        &self,
        settings: &Settings,
        keys: Option<&KeySet>,
        now: Now,
    ) -> Result<Grant, Denial> {
        if keys.is_some_and(|keys| !keys.contains(&self.key)) {
            return Err(Denial::Revoked);
        }
        let claims = Claims::parse(&self.payload).ok_or(Denial::Revoked)?;
        if claims.issuer() != Some(&*settings.jwt_issuer) {
            return Err(Denial::Revoked);
        }
        grant(settings, &claims, now).map_err(|denial| match denial {
            Denial::Expired => Denial::Expired,
            _ => Denial::Revoked,
        })
    }
}

/// Returns the grant of a token of the configured issuer. A token that is wrong only in its time is [`Denial::Expired`].
fn grant(settings: &Settings, claims: &Claims, now: Now) -> Result<Grant, Denial> {
    let principal = claims.text(&settings.jwt_principal_claim).ok_or(Denial::Invalid)?;
    let ends = claims.time("exp").flatten().ok_or(Denial::Invalid)?;
    let begins = claims.time("nbf").ok_or(Denial::Invalid)?;
    if !claims.is_for(&settings.jwt_audience)
        || principal.is_empty()
        || principal.len() > claims::PRINCIPAL_BYTES_MAX
        || begins.is_some_and(|begins| begins > now.unix + LEEWAY)
    {
        return Err(Denial::Invalid);
    }
    if ends <= now.unix {
        return Err(Denial::Expired);
    }
    Ok(Grant {
        principal: format!("jwt:{}|{}", escaped(&settings.jwt_issuer), escaped(principal)).into(),
        projects: Projects::Listed(claims.projects(&settings.jwt_projects_claim)),
        rules: rules(settings, claims.words(&settings.jwt_roles_claim)),
        expires: Some(UnixMillis::new(ends.get())),
    })
}

/// Returns the rules of roles, each once.
pub(in crate::auth) fn rules<'a>(
    settings: &Settings,
    roles: impl IntoIterator<Item = &'a str>,
) -> Arc<[Rule]> {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in roles.into_iter().flat_map(|role| settings.roles.rules(role)) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules.into()
}

/// Escapes what would make a principal ambiguous, or a log line ugly.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if char == '|' || char == '%' || char.is_control() || char.is_whitespace() {
            let mut bytes = [0; 4];
            char.encode_utf8(&mut bytes).bytes().for_each(|byte| escaped.push_str(&format!("%{byte:02X}")));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

#[cfg(test)]
pub(in crate::auth) mod tests;
