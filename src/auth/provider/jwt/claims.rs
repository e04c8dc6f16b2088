//! What a token says.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::millis::UnixMillis;
use crate::base::names::Project;

/// The longest name of a client, in bytes.
pub(super) const PRINCIPAL_BYTES_MAX: usize = 256;

/// How deep JSON may be nested.
const DEPTH_MAX: usize = 16;

/// The claims of a token.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// Parses JSON.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        object(json).map(Self)
    }

    /// Returns who issued the token.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.0.get("iss")?.as_str()
    }

    /// Returns whether the token is for this audience.
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// Returns a time in seconds. `None` if the claim is no time, `Some(None)` if it is absent.
    pub(super) fn time(&self, claim: &str) -> Option<Option<UnixMillis>> {
        let Some(value) = self.0.get(claim) else { return Some(None) };
        // Some issuers write fractions.
        let seconds = value.as_f64().filter(|seconds| (0.0..1e15).contains(seconds))?;
        Some(Some(UnixMillis::new((seconds * 1_000.0) as u64)))
    }

    /// Returns a claim that is a text.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.get(claim)?.as_str()
    }

    /// Returns the words of a claim: a list of texts, or a text with spaces between them.
    pub(super) fn words(&self, claim: &str) -> Vec<&str> {
        match self.get(claim) {
            Some(Value::String(text)) => text.split_whitespace().collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the projects of a claim, each once. Names that no project can have give nothing.
    pub(super) fn projects(&self, claim: &str) -> Arc<[Project]> {
        let mut projects = Vec::new();
        for project in self.words(claim).into_iter().filter_map(|name| Project::parse(name).ok()) {
            if !projects.contains(&project) {
                projects.push(project);
            }
        }
        projects.into()
    }

    /// Returns a claim by its name, or by its path, as in `realm_access.roles`.
    fn get(&self, claim: &str) -> Option<&Value> {
        self.0.get(claim).or_else(|| {
            let (first, rest) = claim.split_once('.')?;
            rest.split('.').try_fold(self.0.get(first)?, |value, name| value.get(name))
        })
    }
}

/// Parses a JSON object that is not nested too deep.
pub(super) fn object(json: &[u8]) -> Option<Map<String, Value>> {
    if depth(json) > DEPTH_MAX {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Returns how deep JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
