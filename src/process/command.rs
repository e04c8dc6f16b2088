//! Runs a command that prints a token: in its own process group, with a timeout, with bounded output, and
//! without leaving processes behind (`children`).

use std::io::{self, ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::children::Group;

/// The most that the command may print, in bytes. A token has a few KiB.
const PRINTED_BYTES_MAX: usize = 60 << 10;

fn start(command: &str) -> io::Result<Group> {
    Group::start(Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()))
}

/// Runs a command with `sh`. Returns its output up to the end of the shell, or `None` if `stop` becomes
/// readable or its other end is closed.
///
/// Processes that are left in the background are killed, not awaited. Only a process that leaves the group
/// (`setsid`) survives.
pub fn run(command: &str, limit: Duration, stop: BorrowedFd<'_>) -> Result<Option<String>, String> {
    let deadline = Instant::now() + limit;
    let mut group = start(command).map_err(|error| format!("cannot run sh: {error}"))?;
    let unwatched = |error: Errno| format!("cannot watch the command: {error}");
    let leader = Pid::from_child(&group.child);
    let end = pidfd_open(leader, PidfdFlags::empty()).map_err(unwatched)?;
    let mut output = group.child.stdout.take().ok_or("cannot read the command's output")?;
    let mut printed = Vec::new();
    let mut is_closed = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut watched = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::new(&end, PollFlags::IN),
            PollFd::new(&output, PollFlags::IN),
        ];
        // A closed pipe would end every poll immediately.
        let count = if is_closed { 2 } else { 3 };
        match poll(&mut watched[..count], Some(&left)) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(unwatched(error)),
            Ok(0) => return Err(format!("the command still ran after {} s", limit.as_secs())),
            Ok(_) => {}
        }
        let [is_stopped, has_ended, has_output] =
            watched.each_ref().map(|watched| !watched.revents().is_empty());
        if is_stopped {
            return Ok(None);
        }
        if has_output {
            let mut some = [0; 4096];
            match output.read(&mut some) {
                Ok(count) => {
                    is_closed = count == 0;
                    printed.extend_from_slice(&some[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot read the command's output: {error}")),
            }
            if printed.len() > PRINTED_BYTES_MAX {
                return Err(format!("the command prints more than {PRINTED_BYTES_MAX} bytes"));
            }
        } else if has_ended {
            break;
        }
    }
    let status = group.end().map_err(|error| format!("cannot wait for the command: {error}"))?;
    if !status.success() {
        return Err(format!("the command ended with {status}"));
    }
    Ok(Some(String::from_utf8_lossy(&printed).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver};
    use std::thread::JoinHandle;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(3600);

    fn run_for(command: &str, limit: Duration) -> Result<Option<String>, String> {
        let (stopped, _stop) = std::io::pipe().unwrap();
        run(command, limit, stopped.as_fd())
    }

    /// A named pipe that a command and its descendants hold open, and a thread that reads it until all of
    /// them have ended.
    struct Witness {
        path: PathBuf,
        own: File,
        began: Receiver<()>,
        reader: JoinHandle<()>,
    }

    impl Witness {
        fn new() -> Self {
            static NUMBER: AtomicUsize = AtomicUsize::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("millstream-witness-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            // On Linux this open does not block, and it keeps later ones from blocking.
            let own = File::options().read(true).write(true).open(&path).unwrap();
            let mut read = File::open(&path).unwrap();
            let (begun, began) = mpsc::channel();
            let reader = std::thread::spawn(move || {
                if read.read(&mut [0]).unwrap() > 0 {
                    begun.send(()).unwrap();
                }
                read.read_to_end(&mut Vec::new()).unwrap();
            });
            Self { path, own, began, reader }
        }

        /// Makes a command, and everything that it starts, hold the pipe.
        fn held_by(&self, command: &str) -> String {
            format!("exec 9> {}; echo >&9; {command}", self.path.display())
        }

        /// Returns once no process of the command is left.
        fn await_nobody(self) {
            drop(self.own);
            self.reader.join().unwrap();
            std::fs::remove_file(self.path).unwrap();
        }
    }

    #[test]
    fn output_is_returned_and_a_failure_is_reported() {
        assert_eq!(run_for("echo one; echo two", LONG), Ok(Some("one\ntwo\n".into())));
        assert_eq!(run_for("echo token | cat", LONG), Ok(Some("token\n".into())));
        assert!(
            run_for("echo secret; exit 3", LONG)
                .is_err_and(|why| why == "the command ended with exit status: 3")
        );
        // Closing the output does not end the command.
        assert!(run_for("exec >&-; exit 4", LONG).is_err_and(|why| why.contains("exit status: 4")));
    }

    #[test]
    fn a_background_process_delays_nothing_and_is_killed() {
        let witness = Witness::new();
        // The background process inherits the output, and never closes it.
        let printed = run_for(&witness.held_by("sleep 10000 & echo token"), LONG);
        assert_eq!(printed, Ok(Some("token\n".into())));
        witness.await_nobody();
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_all_its_processes() {
        for command in ["sleep 10000 & sleep 10000; true", "exec >&-; sleep 10000; true"] {
            let witness = Witness::new();
            let why = run_for(&witness.held_by(command), Duration::from_secs(1)).unwrap_err();
            assert!(why.contains("still ran after 1 s"), "{why}");
            witness.await_nobody();
        }
    }

    #[test]
    fn endless_output_is_not_kept() {
        let witness = Witness::new();
        let why = run_for(&witness.held_by("yes secret"), LONG).unwrap_err();
        assert!(why.contains("prints more than") && !why.contains("secret"), "{why}");
        witness.await_nobody();
    }

    #[test]
    fn the_command_ends_with_the_server() {
        let witness = Witness::new();
        let (stopped, stop) = std::io::pipe().unwrap();
        let command = witness.held_by("sleep 10000; true");
        let running = std::thread::spawn(move || run(&command, LONG, stopped.as_fd()));
        witness.began.recv().unwrap();
        drop(stop);
        assert_eq!(running.join().unwrap(), Ok(None));
        witness.await_nobody();
    }
}
