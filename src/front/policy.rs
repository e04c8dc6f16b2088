//! Who may connect, and as which project.

use crate::base::names::Project;
use crate::base::setting::settings;
use crate::ws::origin::{AllowedOrigins, RefusedOrigins};

settings! {
    /// What the server accepts.
    #[derive(Clone, Debug)]
    pub struct Policy {
        in Listen:
        /// The project of clients that name none
        default_project: Project = Project::default(), "default_project", Text;
        /// Origins of browsers that are accepted beside the host that was asked, like https://console.example, with commas
        /// between; *: every one but null
        allowed_origins: AllowedOrigins = AllowedOrigins::default(), "allowed_origins", Text;

        in Tests:
        /// Add the path /echo, which echoes every message, for WebSocket conformance suites
        test_echo: bool = false, "test_echo", Flag;
    } with {
        /// Origins that were refused, for the log.
        refused_origins: RefusedOrigins,
    }
}
