//! Commands that the server runs, and the end of them: none outlives the server.
//!
//! A command gets a process group of its own, which is killed when its [`Group`] is dropped. Where the process exits or aborts nothing
//! is dropped: whoever ends it calls [`end_all`] first. Only a server that is killed itself (SIGKILL) leaves a command behind: the
//! parent-death signal of Linux would reach the shell alone, and needs a fork of the server with all its memory.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

#[derive(Debug)]
struct Groups {
    /// Leaders that are not reaped yet: until then no other group can have such a number.
    live: Vec<Pid>,
    /// The process ends: no command is started any more.
    is_over: bool,
}

static GROUPS: Mutex<Groups> = Mutex::new(Groups { live: Vec::new(), is_over: false });

fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every command and all that it has started, and starts no other: to be called before the process ends without dropping
/// everything.
pub fn end_all() {
    let mut groups = groups();
    groups.is_over = true;
    for leader in &groups.live {
        // Fails where no process of the group is left.
        let _ = kill_process_group(*leader, Signal::KILL);
    }
}

/// A command and all that it has started; killed when this is dropped.
#[derive(Debug)]
pub struct Group {
    /// The command.
    pub child: Child,
    /// Its process group, until it is killed.
    leader: Option<Pid>,
}

impl Group {
    /// Starts a command.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        // Held meanwhile, so that no command starts behind the end of all.
        let mut groups = groups();
        if groups.is_over {
            return Err(io::Error::other("the server ends"));
        }
        let child = command.process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        groups.live.push(leader);
        Ok(Self { child, leader: Some(leader) })
    }

    /// Kills every process that is left, and returns how the command ended.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(leader) = self.leader.take() {
            let mut groups = groups();
            // Fails where no process of the group is left.
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
