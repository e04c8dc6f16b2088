//! The server's own account in Keystone, as a file describes it.
//!
//! ```text
//! # A password:
//! username = millstream
//! user_domain_name = Default
//! password = SECRET
//! project_name = service
//! project_domain_name = Default
//!
//! # Or an application credential:
//! application_credential_id = 21dced0fd20347869b93710d2b98aae0
//! application_credential_secret = SECRET
//! ```
//! The keys are those of OpenStack's clients (`OS_USERNAME` and so on), in lower case.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::auth::provider::entry::read_lines;
use crate::base::secret::Secret;
use crate::base::setting::Unworkable;

const KEYS: [&str; 12] = [
    "username",
    "user_id",
    "user_domain_name",
    "user_domain_id",
    "password",
    "project_name",
    "project_id",
    "project_domain_name",
    "project_domain_id",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
];

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::auth) struct Account {
    /// The body of the request for a token.
    body: Secret,
}

impl Account {
    /// Reads a file of lines `KEY = VALUE`.
    pub(in crate::auth) fn read(key: &str, path: &Path, bytes: &[u8]) -> Result<Self, Unworkable> {
        let mut values = BTreeMap::new();
        read_lines(key, path, bytes, |line| {
            // The line may hold the password, so it is not shown.
            let (name, value) = line.split_once('=').ok_or("not KEY = VALUE")?;
            let (name, value) = (name.trim(), value.trim());
            let known = KEYS.into_iter().find(|known| *known == name);
            let known = known.ok_or_else(|| format!("an unknown key; the keys are {}", KEYS.join(", ")))?;
            if value.is_empty() {
                return Err(format!("{known} has no value"));
            }
            match values.insert(known, value.to_owned()) {
                Some(_) => Err(format!("{known} is given twice")),
                None => Ok(()),
            }
        })?;
        let auth = auth(&values).map_err(|why| Unworkable(format!("{key}: {}: {why}", path.display())))?;
        Ok(Self { body: Secret::new(&json!({ "auth": auth }).to_string()) })
    }

    /// Returns the body of the request for a token.
    pub(super) fn body(&self) -> &Secret {
        &self.body
    }
}

fn auth(values: &BTreeMap<&str, String>) -> Result<Value, String> {
    let get = |key: &str| values.get(key);
    let needed = |key: &str| get(key).ok_or_else(|| format!("{key} is missing"));
    if get("application_credential_secret").is_some() {
        if get("password").is_some() || get("project_id").is_some() || get("project_name").is_some() {
            return Err("an application credential has neither password nor project".into());
        }
        let mut credential = json!({ "secret": needed("application_credential_secret")? });
        match get("application_credential_id") {
            Some(id) => credential["id"] = json!(id),
            None => {
                credential["name"] = json!(needed("application_credential_name")?);
                credential["user"] = user(values)?;
            }
        }
        return Ok(json!({ "identity": {
            "methods": ["application_credential"], "application_credential": credential,
        } }));
    }
    let mut user = user(values)?;
    let missing = "password is missing, or application_credential_secret";
    user["password"] = json!(get("password").ok_or(missing)?);
    let project = match get("project_id") {
        Some(id) => json!({ "id": id }),
        None => named(values, "project_name", "project_domain")?,
    };
    Ok(json!({
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": { "project": project },
    }))
}

fn user(values: &BTreeMap<&str, String>) -> Result<Value, String> {
    match values.get("user_id") {
        Some(id) => Ok(json!({ "id": id })),
        None => named(values, "username", "user_domain"),
    }
}

/// Returns a thing by its name, which is unique in its domain only.
fn named(values: &BTreeMap<&str, String>, name: &str, domain: &str) -> Result<Value, String> {
    let named = values.get(name).ok_or_else(|| format!("{name} is missing"))?;
    let (by_id, by_name) = (format!("{domain}_id"), format!("{domain}_name"));
    let of = match (values.get(&*by_id), values.get(&*by_name)) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(name)) => json!({ "name": name }),
        (None, None) => return Err(format!("{by_name} is missing, or {by_id}")),
    };
    Ok(json!({ "name": named, "domain": of }))
}
