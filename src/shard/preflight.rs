//! What shards need of the machine, looked at before the first is started: every refusal says what to do.
//!
//! Runs once, on the starting thread. Raises the soft limits that may be raised.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::uring;
use crate::config::ServerConfig;

/// The kernel that glommio's operations need.
const KERNEL_MIN: (u32, u32) = (5, 8);

/// What glommio asks for, bytes that may be locked: with less it starts no executor.
const MEMLOCK_MIN: u64 = 512 << 10;

/// Open files that a server needs before its first connection.
const FILES_MIN: u64 = 64;
/// Open files of each shard beside its connections: rings, bells, its listener's share.
const FILES_PER_SHARD: u64 = 16;

/// Why no shard can be started, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// Looks at kernel, io_uring, lockable memory and open files. What is merely small is said in the log.
pub fn check(config: &ServerConfig) -> Result<(), Unfit> {
    check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    check_uring(setting.trim(), uring::probe())?;
    check_memlock(raise(Resource::Memlock))?;
    let shards = config.shard_cores().len() as u64;
    let wanted = FILES_MIN + shards * (FILES_PER_SHARD + config.settings.max_connections as u64);
    if let Some(warning) = check_files(raise(Resource::Nofile), wanted)? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Open files that a client needs beside those of its executors and connections.
const FILES_OF_CLIENT: u64 = 32;

/// Looks at what a client of so many executors and connections needs: kernel, io_uring, lockable memory, open files.
pub fn check_client(executors: u64, connections: u64) -> Result<(), Unfit> {
    check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    check_uring(setting.trim(), uring::probe())?;
    check_memlock(raise(Resource::Memlock))?;
    check_client_files(raise(Resource::Nofile), executors, connections)
}

fn check_client_files(limit: u64, executors: u64, connections: u64) -> Result<(), Unfit> {
    let wanted = FILES_OF_CLIENT + executors * FILES_PER_SHARD + connections;
    if limit >= wanted {
        return Ok(());
    }
    Err(Unfit(format!(
        "only {limit} files may be open, a client of {connections} connections needs {wanted}: raise the limit (ulimit -n, \
         LimitNOFILE= in systemd, docker run --ulimit nofile=N), or open fewer connections"
    )))
}

/// The limit that is in force, once the soft one was raised as far as it goes; `u64::MAX` for none.
fn raise(resource: Resource) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    let raised = current != maximum && setrlimit(resource, Rlimit { current: maximum, maximum }).is_ok();
    (if raised { maximum } else { current }).unwrap_or(u64::MAX)
}

fn check_kernel(release: &str) -> Result<(), Unfit> {
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else { return Ok(()) };
    if (major, minor) >= KERNEL_MIN {
        return Ok(());
    }
    let (at_least, minor_least) = KERNEL_MIN;
    Err(Unfit(format!("Linux {release} is too old: io_uring needs {at_least}.{minor_least} or later")))
}

fn check_uring(setting: &str, probe: Result<(), rustix::io::Errno>) -> Result<(), Unfit> {
    let Err(error) = probe else { return Ok(()) };
    let why = match (setting, error) {
        ("1" | "2", _) => format!(
            "io_uring is switched off (kernel.io_uring_disabled = {setting}): sysctl -w kernel.io_uring_disabled=0"
        ),
        (_, rustix::io::Errno::PERM) => {
            "io_uring is not allowed here: in a container, allow io_uring_setup, io_uring_enter and \
            io_uring_register in the seccomp profile (docker run --security-opt seccomp=FILE)"
                .into()
        }
        (_, rustix::io::Errno::NOSYS) => {
            "this kernel has no io_uring: it must be built with CONFIG_IO_URING".into()
        }
        (_, rustix::io::Errno::NOMEM) => {
            "io_uring may lock no memory: raise the limit (ulimit -l, LimitMEMLOCK=infinity in \
            systemd, docker run --ulimit memlock=-1)"
                .into()
        }
        (_, error) => format!("io_uring cannot be set up: {error}"),
    };
    Err(Unfit(why))
}

fn check_memlock(limit: u64) -> Result<(), Unfit> {
    if limit >= MEMLOCK_MIN {
        return Ok(());
    }
    Err(Unfit(format!(
        "only {limit} bytes may be locked in memory, {MEMLOCK_MIN} are needed: raise the limit (ulimit -l, \
         LimitMEMLOCK=infinity in systemd, docker run --ulimit memlock=-1)"
    )))
}

/// A warning, where there are enough to begin with.
fn check_files(limit: u64, wanted: u64) -> Result<Option<String>, Unfit> {
    let what_to_do = "raise the limit (ulimit -n, LimitNOFILE= in systemd, docker run --ulimit nofile=N)";
    if limit < FILES_MIN {
        return Err(Unfit(format!("only {limit} files may be open, {FILES_MIN} are needed: {what_to_do}")));
    }
    Ok((limit < wanted).then(|| {
        format!(
            "{limit} files may be open, max_connections on every shard wants {wanted}: connections beyond that wait to be \
             accepted; {what_to_do}, or lower max_connections"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn every_refusal_says_what_to_do() {
        assert_eq!(check_kernel("6.18.44-cloud"), Ok(()));
        assert_eq!(check_kernel("5.8.0"), Ok(()));
        assert!(check_kernel("5.4.0-150-generic").unwrap_err().0.contains("5.8 or later"));
        assert_eq!(check_uring("0", Ok(())), Ok(()));
        let says = |setting, error, words: &str| {
            let why = check_uring(setting, Err(error)).unwrap_err().0;
            assert!(why.contains(words), "{why}");
        };
        says("2", Errno::PERM, "sysctl -w kernel.io_uring_disabled=0");
        says("0", Errno::PERM, "seccomp");
        says("0", Errno::NOSYS, "CONFIG_IO_URING");
        says("0", Errno::NOMEM, "LimitMEMLOCK=infinity");
        assert!(check_memlock(65_536).unwrap_err().0.contains("--ulimit memlock=-1"));
        assert!(check_files(20, 100).unwrap_err().0.contains("LimitNOFILE"));
        assert!(check_files(1024, 5000).unwrap().unwrap().contains("lower max_connections"));
        assert_eq!(check_files(1 << 20, 5000), Ok(None));
        assert!(check_client_files(1024, 2, 1000).unwrap_err().0.contains("ulimit -n"));
        assert_eq!(check_client_files(1024, 2, 900), Ok(()));
    }

    #[test]
    fn this_machine_is_fit_for_the_tests() {
        assert_eq!(uring::probe(), Ok(()));
    }
}
