//! Runs a command that gets bytes on its standard input: in its own process group, with a timeout, and without leaving
//! processes behind (`children`). The command writes to the standard output and error of this process.

use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::children::Group;

/// How a command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// By itself.
    Ended(ExitStatus),
    /// It was killed at the time limit.
    TimedOut,
    /// It was killed because `stop` asked for it.
    Stopped,
}

/// Runs a command and writes `input` to its standard input. Kills it at the limit, and once `stop` becomes readable or
/// its other end is closed. An error means that the command did not run.
///
/// The command need not read its input. Processes that are left in the background are killed, not awaited.
pub fn feed(
    command: &mut Command,
    input: &[u8],
    limit: Option<Duration>,
    stop: BorrowedFd<'_>,
) -> io::Result<Fed> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut group = Group::start(command.stdin(Stdio::piped()))?;
    let end = pidfd_open(Pid::from_child(&group.child), PidfdFlags::empty())?;
    let mut left = input;
    let mut pipe = group.child.stdin.take();
    if let Some(pipe) = &pipe {
        ioctl_fionbio(pipe, true)?;
    }
    loop {
        pipe = pipe.filter(|_| !left.is_empty());
        let time = deadline.map(|deadline| {
            let time = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ }
        });
        let mut watched =
            vec![PollFd::from_borrowed_fd(stop, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
        watched.extend(pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        match poll(&mut watched, time.as_ref()) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => {
                group.end()?;
                return Ok(Fed::TimedOut);
            }
            Ok(_) => {}
        }
        let is_ready = |index: usize| watched.get(index).is_some_and(|watched| !watched.revents().is_empty());
        let (is_stopped, has_ended, is_writable) = (is_ready(0), is_ready(1), is_ready(2));
        // A command that has ended by itself is not killed any more.
        if has_ended {
            return group.end().map(Fed::Ended);
        }
        if is_stopped {
            group.end()?;
            return Ok(Fed::Stopped);
        }
        if let Some(open) = pipe.as_mut().filter(|_| is_writable) {
            match open.write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                // The command has closed its input: it wants no more.
                Err(_) => left = &[],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;

    /// More than any pipe holds.
    const LARGE: usize = 4 << 20;

    fn shell(command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        shell
    }

    fn fed(command: &str, input: &[u8], limit: Option<Duration>) -> io::Result<Fed> {
        let (stopped, _stop) = io::pipe().unwrap();
        feed(&mut shell(command), input, limit, stopped.as_fd())
    }

    fn code(code: i32) -> Fed {
        Fed::Ended(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_command_gets_the_whole_input() {
        let input = vec![b'x'; LARGE];
        assert_eq!(fed(&format!("test $(wc -c) -eq {LARGE}"), &input, None).unwrap(), code(0));
        assert_eq!(fed("test -z \"$(cat)\"", &[], None).unwrap(), code(0), "an empty input ends at once");
    }

    #[test]
    fn a_command_that_does_not_read_its_input_ends_like_any_other() {
        let input = vec![b'x'; LARGE];
        assert_eq!(fed("exit 3", &input, None).unwrap(), code(3));
        assert_eq!(fed("exec <&-; exit 4", &input, None).unwrap(), code(4));
        assert_eq!(fed("head -c 10 >/dev/null; exit 5", &input, None).unwrap(), code(5));
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let limit = Some(Duration::from_millis(50));
        assert_eq!(fed("sleep 10000", &[], limit).unwrap(), Fed::TimedOut);
        assert_eq!(fed("sleep 10000", &vec![b'x'; LARGE], limit).unwrap(), Fed::TimedOut);
        let (stopped, stop) = io::pipe().unwrap();
        drop(stop);
        assert_eq!(feed(&mut shell("sleep 10000"), &[], None, stopped.as_fd()).unwrap(), Fed::Stopped);
    }

    #[test]
    fn a_process_in_the_background_delays_nothing() {
        assert_eq!(fed("sleep 10000 <&0 & exit 6", &vec![b'x'; LARGE], None).unwrap(), code(6));
    }

    #[test]
    fn a_command_that_does_not_exist_is_an_error() {
        let (stopped, _stop) = io::pipe().unwrap();
        assert!(feed(&mut Command::new("/nonexistent/command"), &[], None, stopped.as_fd()).is_err());
    }
}
