//! Which clients are accepted, and as which project.

use crate::base::names::Project;
use crate::base::setting::settings;
use crate::ws::origin::{AllowedOrigins, RefusedOrigins};

settings! {
    /// The rules for connecting clients.
    #[derive(Clone, Debug)]
    pub struct Policy {
        in Listen, OnReload:
        /// Project of clients that name none
        default_project: Project = Project::default(), "default_project", Text;
        /// Comma-separated browser origins that are accepted in addition to the server's own, like
        /// https://console.example; *: all except null
        allowed_origins: AllowedOrigins = AllowedOrigins::default(), "allowed_origins", Text;

        in Auth, OnReload:
        /// Accept a token in the query string (token=...), for clients that can set no header; logs of proxies may
        /// show it
        auth_query_token: bool = false, "auth_query_token", Flag;

        in Tests, AtStart:
        /// Add the path /echo, which echoes every message, for WebSocket conformance suites
        test_echo: bool = false, "test_echo", Flag;
    } with {
        /// The origins that were refused, for the log.
        refused_origins: RefusedOrigins,
        /// Whether clients must authenticate, so that their tokens are read.
        reads_tokens: bool,
    }
}
