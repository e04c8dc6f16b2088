//! Provider mtls: certificates whose names a file lists.

use std::path::Path;
use std::sync::Arc;

use super::entry::{Entitled, read_lines};
use super::{Evidence, Opinion};
use crate::access::Grant;
use crate::auth::question::Denial;
use crate::base::clock::Now;
use crate::base::millis::UnixMillis;
use crate::base::setting::Unworkable;
use crate::tls::ClientCertificate;

/// The clients of a file, in its order. The first that a certificate names counts.
#[derive(Debug, Default)]
pub(in crate::auth) struct Certified(Vec<(Subject, Entitled)>);

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Dns(String),
    Uri(String),
    CommonName(String),
}

impl Certified {
    /// Reads a file of lines `SUBJECT PROJECTS RULE RULE`.
    pub(in crate::auth) fn read(key: &str, path: &Path, bytes: &[u8]) -> Result<Self, Unworkable> {
        let mut clients: Vec<(Subject, Entitled)> = Vec::new();
        read_lines(key, path, bytes, |line| {
            let mut words = line.split_whitespace();
            let subject = Subject::parse(words.next().unwrap_or_default())?;
            let entitled = Entitled::parse(words)?;
            if clients.iter().any(|(known, _)| *known == subject) {
                return Err("this name is listed twice".into());
            }
            clients.push((subject, entitled));
            Ok(())
        })?;
        Ok(Self(clients))
    }

    /// Looks for the names of a certificate.
    pub(in crate::auth) fn judge(&self, now: Now, certificate: &Arc<ClientCertificate>) -> Opinion {
        match self.grant(now, certificate) {
            Ok(grant) => Opinion::Granted(grant, Evidence::Certificate(certificate.clone())),
            Err(Denial::Expired) => Opinion::Denied(Denial::Expired),
            Err(_) => Opinion::NotMine(Denial::Unknown),
        }
    }

    /// Returns the grant of a certificate that was listed before.
    pub(in crate::auth) fn grant(&self, now: Now, certificate: &ClientCertificate) -> Result<Grant, Denial> {
        let listed = self.0.iter().find(|(subject, _)| subject.is_of(certificate));
        let (subject, Entitled { projects, rules }) = listed.ok_or(Denial::Revoked)?;
        let ends = UnixMillis::new(u64::try_from(certificate.not_after).unwrap_or(0).saturating_mul(1_000));
        if ends <= now.unix {
            return Err(Denial::Expired);
        }
        Ok(Grant {
            principal: subject.principal().into(),
            projects: projects.clone(),
            rules: rules.clone(),
            expires: Some(ends),
        })
    }
}

impl Subject {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((_, "")) => Err(format!("{text:?} has no name behind the colon")),
            // Names in DNS have no case.
            Some(("dns", name)) => Ok(Self::Dns(name.to_ascii_lowercase())),
            Some(("uri", name)) => Ok(Self::Uri(name.to_owned())),
            Some(("cn", name)) => Ok(Self::CommonName(name.to_owned())),
            _ => Err(format!("{text:?} is not dns:NAME, uri:URI or cn:NAME")),
        }
    }

    fn is_of(&self, certificate: &ClientCertificate) -> bool {
        match self {
            Self::Dns(name) => certificate.dns_names.contains(name),
            Self::Uri(name) => certificate.uris.contains(name),
            Self::CommonName(name) => certificate.common_name.as_ref() == Some(name),
        }
    }

    fn principal(&self) -> String {
        match self {
            Self::Dns(name) => format!("mtls:dns:{name}"),
            Self::Uri(name) => format!("mtls:uri:{name}"),
            Self::CommonName(name) => format!("mtls:cn:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(dns: &str, uri: &str, cn: &str) -> Arc<ClientCertificate> {
        Arc::new(ClientCertificate {
            common_name: Some(cn.into()),
            dns_names: vec![dns.into()],
            uris: vec![uri.into()],
            not_after: 2_000,
            fingerprint: [0; 32],
            chain: Vec::new(),
        })
    }

    fn principal(certified: &Certified, of: &Arc<ClientCertificate>) -> Option<String> {
        match certified.judge(Now::at_ms(0, 1_000_000), of) {
            Opinion::Granted(grant, _) => {
                assert_eq!(grant.expires, Some(UnixMillis::new(2_000_000)));
                Some(grant.principal.to_string())
            }
            Opinion::NotMine(Denial::Unknown) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_kind_of_a_name_counts_and_the_first_line_wins() {
        let text = "uri:spiffe://x/app a all:*\ndns:App.Example b all:*\ncn:app c consume:*\n";
        let certified = Certified::read("auth_mtls_file", Path::new("m"), text.as_bytes()).unwrap();
        for (dns, uri, cn, expected) in [
            ("app.example", "spiffe://x/app", "app", Some("mtls:uri:spiffe://x/app")),
            ("app.example", "-", "app", Some("mtls:dns:app.example")),
            ("-", "-", "app", Some("mtls:cn:app")),
            ("app", "app.example", "app.example", None),
            ("spiffe://x/app", "-", "-", None),
        ] {
            assert_eq!(principal(&certified, &certificate(dns, uri, cn)).as_deref(), expected);
        }
        let late = certified.judge(Now::at_ms(0, 2_000_000), &certificate("-", "-", "app"));
        assert!(matches!(late, Opinion::Denied(Denial::Expired)));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, why) in [
            ("app * all:*\n", "is not dns:NAME"),
            ("email:a@b * all:*\n", "is not dns:NAME"),
            ("dns: * all:*\n", "no name"),
            ("cn:a * all:*\ncn:a b all:*\n", "line 2: this name is listed twice"),
            ("dns:a\n", "projects are missing"),
        ] {
            let said = Certified::read("auth_mtls_file", Path::new("m"), text.as_bytes()).unwrap_err().0;
            assert!(said.starts_with("auth_mtls_file: m, line ") && said.contains(why), "{said}");
        }
    }
}
