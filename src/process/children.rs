//! Commands that the process runs. None of them outlives it.
//!
//! Each command gets its own process group, which is killed when its [`Group`] is dropped. Nothing is dropped
//! when the process exits or aborts, so call [`end_all`] before that. Only a SIGKILL to the process leaves a
//! command behind. Linux's parent-death signal is no remedy: it reaches only the shell, and it needs a fork
//! of a server with all its memory.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

use super::manager;

#[derive(Debug)]
struct Groups {
    /// Group leaders that are not reaped yet. Until they are, no other group can get the same number.
    live: Vec<Pid>,
    /// Whether the process is ending, so that no command may start.
    is_over: bool,
}

static GROUPS: Mutex<Groups> = Mutex::new(Groups { live: Vec::new(), is_over: false });

fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all commands and their descendants, and prevents new ones from starting. Call it before the process
/// ends without dropping everything.
pub fn end_all() {
    let mut groups = groups();
    groups.is_over = true;
    for leader in &groups.live {
        // Fails if no process of the group is left.
        let _ = kill_process_group(*leader, Signal::KILL);
    }
}

/// A command and its descendants. Dropping it kills them.
#[derive(Debug)]
pub struct Group {
    /// The running command.
    pub child: Child,
    /// The leader of the process group; `None` after the group was killed.
    leader: Option<Pid>,
}

impl Group {
    /// Starts a command in its own process group, without the variables of the service manager.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        // Held while the command starts, so that `end_all` cannot miss it.
        let mut groups = groups();
        if groups.is_over {
            return Err(io::Error::other("the process is ending"));
        }
        for variable in manager::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        groups.live.push(leader);
        Ok(Self { child, leader: Some(leader) })
    }

    /// Kills all remaining processes of the group. Returns the exit status of the command.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(leader) = self.leader.take() {
            let mut groups = groups();
            // Fails if no process of the group is left.
            let _ = kill_process_group(leader, Signal::KILL);
            groups.live.retain(|live| *live != leader);
        }
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_command_does_not_inherit_the_variables_of_the_service_manager() {
        let mut command = Command::new("env");
        command.stdout(Stdio::piped()).env("OTHER", "1");
        for variable in manager::VARIABLES {
            command.env(variable, "1");
        }
        let mut group = Group::start(&mut command).unwrap();
        let mut said = String::new();
        group.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.lines().any(|line| line == "OTHER=1"), "{said}");
        assert!(
            !said.contains("LISTEN_") && !said.contains("NOTIFY_SOCKET") && !said.contains("WATCHDOG_"),
            "{said}"
        );
    }
}
