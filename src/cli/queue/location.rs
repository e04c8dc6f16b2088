//! Where the queues of a command are: in a data directory that no server uses, or in a running server.

use std::path::PathBuf;

use super::place::Place;
use super::running::Running;
use super::stopped::Stopped;
use crate::base::names::{FullName, Project, QueueName};
use crate::cli::control::{AccessArgs, control_address};
use crate::cli::serve::CONTROL_SOCKET;
use crate::cli::{Directory, Failure};
use crate::client::Address;

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
}

/// One queue, and where it is.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct One {
    /// Name of the queue
    queue: String,
    /// Project that owns the queue
    #[arg(long, default_value = "default")]
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
        self.place.open()
    }
}

impl Location {
    /// Opens the place.
    pub(in crate::cli) fn open(&self) -> Result<Box<dyn Place>, Failure> {
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

    fn running(&self, address: &Address) -> Result<Box<dyn Place>, Failure> {
        Ok(Box::new(Running::new(self.access.client(address, super::ANSWER_TIMEOUT)?)))
    }
}
