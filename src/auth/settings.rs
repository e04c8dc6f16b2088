//! The providers and their settings.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Rule;
use crate::base::setting::{Kind, LONGEST_MS, SHORTEST_MS, Unworkable, Value, settings};

/// Decides who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProviderKind {
    /// Tokens of the server's own, in a file.
    Static,
    /// JSON Web Tokens (RFC 7519).
    Jwt,
    /// Tokens of OpenStack Keystone, API v3.
    Keystone,
    /// Certificates of clients.
    Mtls,
}

impl ProviderKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Static, Self::Jwt, Self::Keystone, Self::Mtls];

    /// Returns the name in the settings, in principals and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Jwt => "jwt",
            Self::Keystone => "keystone",
            Self::Mtls => "mtls",
        }
    }
}

/// Providers in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Providers(pub Vec<ProviderKind>);

impl Value for Providers {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let mut providers = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let known = ProviderKind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = known.ok_or_else(|| format!("{name:?} is not static, jwt, keystone or mtls"))?;
            if providers.contains(&kind) {
                return Err(format!("{name} is given twice"));
            }
            providers.push(kind);
        }
        Ok(Self(providers))
    }

    fn show(&self, _: &Kind) -> String {
        self.0.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",")
    }
}

/// The rules of roles: `ROLE = RULE RULE; ROLE = RULE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(pub Vec<(Arc<str>, Vec<Rule>)>);

impl Roles {
    /// Returns the rules of one role.
    pub fn rules(&self, role: &str) -> &[Rule] {
        self.0.iter().find(|(name, _)| **name == *role).map_or(&[], |(_, rules)| rules)
    }
}

impl Value for Roles {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let mut roles: Vec<(Arc<str>, Vec<Rule>)> = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, rules) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not ROLE = RULE RULE, like reader = consume:*"))?;
            let name = name.trim();
            if name.is_empty() || roles.iter().any(|(known, _)| **known == *name) {
                return Err(format!("{part:?}: the name of the role is empty or given twice"));
            }
            let rules: Vec<Rule> = rules.split_whitespace().map(Rule::parse).collect::<Result<_, _>>()?;
            if rules.is_empty() {
                return Err(format!("{part:?}: the role has no rule"));
            }
            roles.push((name.into(), rules));
        }
        Ok(Self(roles))
    }

    fn show(&self, _: &Kind) -> String {
        let role = |(name, rules): &(Arc<str>, Vec<Rule>)| {
            let rules: Vec<String> = rules.iter().map(Rule::to_string).collect();
            format!("{name} = {}", rules.join(" "))
        };
        self.0.iter().map(role).collect::<Vec<_>>().join("; ")
    }
}

settings! {
    /// Who may connect, and what they may do.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Settings {
        in Auth, AtStart:
        /// Comma-separated providers that decide who a client is, in this order: static, jwt, keystone, mtls;
        /// none: every client may do everything
        providers: Providers = Providers::default(), "auth", Text;

        in Auth, OnReload:
        /// Rules of the roles that jwt and keystone tell: ROLE = RULE RULE; ROLE = RULE, where a RULE is
        /// RIGHTS:QUEUE or RIGHTS:PREFIX*, and rights are produce, consume, claim, manage and all
        roles: Roles = Roles::default(), "auth_roles", Text;
        /// File of provider static; each line: NAME sha256:DIGEST PROJECTS RULE RULE, as millstream token new
        /// prints it
        static_file: Option<PathBuf> = None, "auth_static_file", Text;
        /// File of provider mtls; each line: dns:NAME, uri:URI or cn:NAME of a certificate, PROJECTS, and rules
        mtls_file: Option<PathBuf> = None, "auth_mtls_file", Text;
        /// Keys of provider jwt: a file or an https:// address with a JSON Web Key Set (RFC 7517)
        jwt_keys: String = String::new(), "auth_jwt_keys", Text;
        /// The issuer (iss) of JSON Web Tokens
        jwt_issuer: String = String::new(), "auth_jwt_issuer", Text;
        /// The audience (aud) of JSON Web Tokens
        jwt_audience: String = String::new(), "auth_jwt_audience", Text;
        /// The claim that names the client
        jwt_principal_claim: String = "sub".into(), "auth_jwt_principal_claim", Text;
        /// The claim with the client's project, or a list of projects
        jwt_projects_claim: String = "projects".into(), "auth_jwt_projects_claim", Text;
        /// The claim with the client's roles: a list, or a text with spaces between them
        jwt_roles_claim: String = "roles".into(), "auth_jwt_roles_claim", Text;
        /// Address of Keystone, like https://keystone.example:5000/v3
        keystone_url: String = String::new(), "auth_keystone_url", Text;
        /// File with the server's own account in Keystone
        keystone_credentials: Option<PathBuf> = None, "auth_keystone_credentials", Text;
        /// Comma-separated roles of Keystone whose clients may name any project
        keystone_any_project_roles: String = String::new(), "auth_keystone_any_project_roles", Text;
        /// PEM file with the CAs of https:// addresses of providers, instead of the system's
        ca: Option<PathBuf> = None, "auth_ca", Text;

        in Auth, OnReload:
        /// How often a token that is in use is checked again with keystone
        recheck: Duration = Duration::from_secs(300), "auth_recheck", Duration(SHORTEST_MS..=LONGEST_MS);
        /// How long a token stays valid while keystone cannot be asked again
        recheck_grace: Duration = Duration::from_secs(3600), "auth_recheck_grace", Duration(0..=LONGEST_MS);
    }
}

impl Settings {
    /// Returns whether clients must authenticate.
    pub fn is_on(&self) -> bool {
        !self.providers.0.is_empty()
    }

    /// Returns whether a provider is used.
    pub fn uses(&self, kind: ProviderKind) -> bool {
        self.providers.0.contains(&kind)
    }

    /// Refuses combinations that cannot work.
    pub fn check(&self) -> Result<(), Unworkable> {
        let needs = [
            (ProviderKind::Static, self.static_file.is_some(), "auth_static_file"),
            (ProviderKind::Jwt, !self.jwt_keys.is_empty(), "auth_jwt_keys"),
            (ProviderKind::Jwt, !self.jwt_issuer.is_empty(), "auth_jwt_issuer"),
            (ProviderKind::Jwt, !self.jwt_audience.is_empty(), "auth_jwt_audience"),
            (ProviderKind::Keystone, !self.keystone_url.is_empty(), "auth_keystone_url"),
            (ProviderKind::Keystone, self.keystone_credentials.is_some(), "auth_keystone_credentials"),
            (ProviderKind::Mtls, self.mtls_file.is_some(), "auth_mtls_file"),
        ];
        for (kind, is_set, key) in needs {
            let name = kind.name();
            if self.uses(kind) && !is_set {
                return Err(Unworkable(format!("{key}: needed by auth = {name}")));
            }
            if is_set && !self.uses(kind) {
                return Err(Unworkable(format!("{key}: not used, because auth does not name {name}")));
            }
        }
        Ok(())
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
