//! Provider static: tokens whose digests a file lists.

use std::collections::HashMap;
use std::path::Path;

use super::entry::{Entitled, read_lines};
use super::{Evidence, Opinion};
use crate::access::Grant;
use crate::auth::question::Denial;
use crate::auth::token::{Digest, PREFIX, check_name};
use crate::base::setting::Unworkable;

/// The tokens of a file.
#[derive(Debug, Default)]
pub(in crate::auth) struct Listed(HashMap<Digest, Grant>);

impl Listed {
    /// Reads a file of lines `NAME sha256:DIGEST PROJECTS RULE RULE`.
    pub(in crate::auth) fn read(key: &str, path: &Path, bytes: &[u8]) -> Result<Self, Unworkable> {
        let mut listed = HashMap::new();
        read_lines(key, path, bytes, |line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default();
            check_name(name)?;
            // A word that is no digest may be a token: it is not shown.
            let digest = words.next().and_then(Digest::parse).ok_or(
                "the second word is not sha256: and 64 hexadecimal digits; run millstream token new for a line",
            )?;
            let Entitled { projects, rules } = Entitled::parse(words)?;
            let grant = Grant { principal: format!("static:{name}").into(), projects, rules, expires: None };
            match listed.insert(digest, grant) {
                Some(_) => Err(format!("{digest} is listed twice")),
                None => Ok(()),
            }
        })?;
        Ok(Self(listed))
    }

    /// Returns whether no token is listed.
    pub(in crate::auth) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks for a token.
    pub(in crate::auth) fn judge(&self, token: &str) -> Opinion {
        let digest = Digest::of(token);
        match self.grant(&digest) {
            Ok(grant) => Opinion::Granted(grant, Evidence::Listed(digest)),
            // Nobody else issues such tokens, and nobody else should see them.
            Err(_) if token.starts_with(PREFIX) => Opinion::Denied(Denial::Unknown),
            Err(_) => Opinion::NotMine(Denial::Unknown),
        }
    }

    /// Returns the grant of a token that was listed before.
    pub(in crate::auth) fn grant(&self, digest: &Digest) -> Result<Grant, Denial> {
        self.0.get(digest).cloned().ok_or(Denial::Revoked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Right;

    fn of(text: &str) -> Listed {
        Listed::read("auth_static_file", Path::new("tokens"), text.as_bytes()).unwrap()
    }

    #[test]
    fn a_listed_token_gets_what_its_line_says_and_others_nothing() {
        let token = "ms_canary";
        let listed = of(&format!("# apps\napp1 {} a,b consume:orders* produce:log\n", Digest::of(token)));
        let Opinion::Granted(grant, Evidence::Listed(_)) = listed.judge(token) else { panic!() };
        assert_eq!(&*grant.principal, "static:app1");
        assert!(grant.allows(Right::Consume, "orders-1") && !grant.allows(Right::Produce, "orders-1"));
        assert!(matches!(listed.judge("ms_other"), Opinion::Denied(Denial::Unknown)));
        assert!(matches!(listed.judge("other"), Opinion::NotMine(Denial::Unknown)));
    }

    #[test]
    fn a_bad_line_is_named_and_a_token_in_it_is_not_shown() {
        let digest = Digest::of("x");
        for (line, why) in [
            ("app", "second word"),
            ("app ms_canary * all:*", "second word"),
            ("app! sha256:00 * all:*", "name"),
            (&format!("app {digest}"), "projects are missing"),
            (&format!("app {digest} a/b all:*"), "project"),
            (&format!("app {digest} *"), "rules are missing"),
            (&format!("app {digest} * write:*"), "is not a rule"),
            (&format!("app {digest} * all:*\nother {digest} * all:*"), "twice"),
        ] {
            let text = format!("# first\n{line}\n");
            let said = Listed::read("auth_static_file", Path::new("t"), text.as_bytes()).unwrap_err().0;
            let number = 1 + line.lines().count();
            assert!(said.starts_with(&format!("auth_static_file: t, line {number}: ")), "{said}");
            assert!(said.contains(why) && !said.contains("canary"), "{said}");
        }
        let said = Listed::read("auth_static_file", Path::new("t"), b"\xff\n").unwrap_err().0;
        assert!(said.contains("UTF-8"), "{said}");
        let cut = format!("app {digest} * all:*");
        let said = Listed::read("auth_static_file", Path::new("t"), cut.as_bytes()).unwrap_err().0;
        assert!(said.contains("line break"), "{said}");
    }
}
