//! Where the queues of a command are: in a data directory that no server uses, in a running server, or behind the Zaqar
//! API of one.

use std::path::PathBuf;

use super::place::Place;
use super::remote::Remote;
use super::running::Running;
use super::stopped::Stopped;
use crate::base::names::{FullName, Project, QueueName};
use crate::cli::control::{AccessArgs, control_address};
use crate::cli::serve::CONTROL_SOCKET;
use crate::cli::tls::TlsArgs;
use crate::cli::token_source::TokenArgs;
use crate::cli::{Directory, Failure};
use crate::client::Address;
use crate::client::zaqar::{self, Asker};
use crate::shard::preflight;

/// The project of a command that names none.
pub(super) const DEFAULT_PROJECT: &str = "default";

/// Where the queues are stored.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Location {
    /// Data directory of the embedded log. If a server on this machine uses it, that server is asked (control.sock in
    /// the directory)
    #[arg(long, value_name = "DIR", default_value = "millstream-data", conflicts_with = "control")]
    data_dir: PathBuf,
    /// Address of a running server's control port, such as http://127.0.0.1:9001, or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    control: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Address of a server of the Zaqar API: ws://HOST:PORT/v2 or wss://HOST:PORT/v2. This server or OpenStack's own
    #[arg(
        long,
        value_name = "ADDRESS",
        conflicts_with_all = ["data_dir", "control", "control_ca", "control_token_file"]
    )]
    url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// One queue, and where it is.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct One {
    /// Name of the queue
    queue: String,
    /// Project that owns the queue
    #[arg(long, default_value = DEFAULT_PROJECT)]
    project: String,
    #[command(flatten)]
    place: Location,
}

impl One {
    /// Returns the name of the queue.
    pub(in crate::cli) fn name(&self) -> Result<FullName, Failure> {
        let name = Project::parse_stored(&self.project)
            .and_then(|project| Ok((project, QueueName::parse(&self.queue)?)));
        name.map_err(|fault| Failure(fault.to_string()))
    }

    /// Opens the place of the queue.
    pub(in crate::cli) fn open(&self) -> Result<Box<dyn Place>, Failure> {
        self.place.open(&self.project)
    }
}

impl Location {
    /// Opens the place. Only the queues of `project` are asked for.
    pub(in crate::cli) fn open(&self, project: &str) -> Result<Box<dyn Place>, Failure> {
        if let Some(url) = &self.url {
            return self.remote(url, project);
        }
        if let Some(flag) = self.tls.any().or(self.token.any()) {
            return Err(Failure(format!("{flag}: works only with --url")));
        }
        if let Some(control) = &self.control {
            return self.running(&control_address(control)?);
        }
        match Directory::open(&self.data_dir) {
            Ok(directory) => Ok(Box::new(Stopped::new(directory))),
            Err(failure) => {
                let socket = self.data_dir.join(CONTROL_SOCKET);
                if socket.exists() {
                    self.running(&Address::at_control_socket(&socket))
                } else {
                    Err(failure)
                }
            }
        }
    }

    fn remote(&self, url: &str, project: &str) -> Result<Box<dyn Place>, Failure> {
        let project = Project::parse_stored(project).map_err(|fault| Failure(fault.to_string()))?;
        let target = zaqar::target(url)?;
        let trust = self.tls.trust(&target.address)?;
        let tokens = self.token.tokens(&target.address, false)?;
        preflight::check_client(1, 1)?;
        let target = target.trusting(trust).authenticating(tokens);
        let asker = Asker::new(target, &project.to_string(), super::ANSWER_TIMEOUT)?;
        Ok(Box::new(Remote::new(asker, project, url)))
    }

    fn running(&self, address: &Address) -> Result<Box<dyn Place>, Failure> {
        Ok(Box::new(Running::new(self.access.client(address, super::ANSWER_TIMEOUT)?)))
    }
}
