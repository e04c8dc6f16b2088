//! Checks what shards need from the machine before anything starts. Every refusal says what to do.
//!
//! Runs once, on the starting thread. Raises the soft limits up to the hard ones.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::executor::{IO_MEMORY, RING_DEPTH};
use super::unfit::Unfit;
use super::{Settings, descriptors, uring};

/// The version of a kernel, major and minor.
type Version = (u32, u32);

/// The oldest kernel that supports glommio's operations.
const KERNEL_MIN: Version = (5, 8);

/// Since this kernel, the memory of a ring does not count as locked.
const RINGS_UNLOCKED: Version = (5, 12);
/// Since this kernel, it counts again.
const RINGS_LOCKED_AGAIN: Version = (6, 14);

/// The limit of locked memory that glommio demands to start an executor, however little the executor locks,
/// in bytes.
const MEMLOCK_MIN: u64 = 512 << 10;

/// The number of rings of an executor. Each registers the executor's [`IO_MEMORY`].
const RINGS: u64 = 3;
/// The sizes in bytes of a submission, a completion and an index into the submissions. The kernel makes two
/// completions for each submission.
const SUBMISSION: u64 = 64;
const COMPLETION: u64 = 16;
const INDEX: u64 = 4;
/// The size of a ring's header, in bytes. The kernel's is a little smaller.
const RING_HEAD: u64 = 512;
const PAGE: u64 = 4096;

const RAISE_MEMLOCK: &str = "ulimit -l, LimitMEMLOCK=infinity in systemd, docker run --ulimit memlock=-1";
const ALLOW_URING: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in its profile (docker run \
                           --security-opt seccomp=FILE, seccompProfile in Kubernetes)";

/// Checks kernel, io_uring, locked memory and open files for a server, with or without a control port.
/// Returns how many connections the limit of open files allows on all shards together.
pub fn check(settings: &Settings, has_control: bool) -> Result<usize, Unfit> {
    check_executors(settings.shard_cores().len())?;
    let (connections, warning) = connections(settings, has_control)?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    Ok(connections)
}

/// Returns how many connections the limit of open files allows on all shards together, and a warning if the
/// settings allow more.
pub fn connections(settings: &Settings, has_control: bool) -> Result<(usize, Option<String>), Unfit> {
    descriptors::connections(raise(Resource::Nofile), settings, has_control)
}

/// Checks that this process may start this many executors. Used by every command that starts executors,
/// including clients.
pub fn check_executors(executors: usize) -> Result<(), Unfit> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    check_kernel(&release)?;
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    check_uring(setting.trim(), is_filtered(), uring::probe())?;
    let locked = if is_exempt() { 0 } else { locked_bytes(version(&release), executors as u64) };
    check_memlock(raise(Resource::Memlock), locked, executors)
}

/// Checks that this process may run a client with this many executors and connections: kernel, io_uring,
/// locked memory, open files.
pub fn check_client(executors: u64, connections: u64) -> Result<(), Unfit> {
    check_executors(usize::try_from(executors).unwrap_or(usize::MAX))?;
    descriptors::check_client(raise(Resource::Nofile), executors, connections)
}

/// Returns a hint for the error of an executor that could not start, if the limit of locked memory may be the
/// reason. The limit counts the memory of all processes of a user, so others can have exhausted it.
pub(super) fn about_memlock(error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::OutOfMemory {
        return String::new();
    }
    format!(
        "; other processes of this user may have exhausted the limit of locked memory: raise it ({RAISE_MEMLOCK})"
    )
}

/// Raises the soft limit to the hard one, and returns the effective limit; `u64::MAX` for none.
fn raise(resource: Resource) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    let raised = current != maximum && setrlimit(resource, Rlimit { current: maximum, maximum }).is_ok();
    (if raised { maximum } else { current }).unwrap_or(u64::MAX)
}

fn version(release: &str) -> Option<Version> {
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??))
}

fn check_kernel(release: &str) -> Result<(), Unfit> {
    if version(release).is_none_or(|version| version >= KERNEL_MIN) {
        return Ok(());
    }
    let (at_least, minor_least) = KERNEL_MIN;
    Err(Unfit(format!("Linux {release} is too old: io_uring needs {at_least}.{minor_least} or later")))
}

/// Returns whether a seccomp filter checks this process' system calls, or `None` if the kernel does not
/// report it.
fn is_filtered() -> Option<bool> {
    seccomp(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Parses the mode of `Seccomp:` in the status file of proc(5): 0 none, 1 strict, 2 a filter.
fn seccomp(status: &str) -> Option<bool> {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?;
    Some(mode.trim() == "2")
}

fn check_uring(setting: &str, is_filtered: Option<bool>, probe: Result<(), Errno>) -> Result<(), Unfit> {
    let Err(error) = probe else { return Ok(()) };
    let why = match (setting, error) {
        ("1" | "2", Errno::PERM) => format!(
            "io_uring is switched off (kernel.io_uring_disabled = {setting}): sysctl -w kernel.io_uring_disabled=0"
        ),
        (_, Errno::PERM | Errno::ACCESS | Errno::NOSYS) if is_filtered == Some(true) => {
            format!(
                "io_uring is forbidden by this container's or service's seccomp filter ({error}): {ALLOW_URING}"
            )
        }
        (_, Errno::NOSYS) => "this kernel has no io_uring: it must be built with CONFIG_IO_URING".into(),
        (_, Errno::PERM | Errno::ACCESS) if is_filtered.is_none() => {
            format!("io_uring is not allowed here ({error}); if that is a seccomp filter, {ALLOW_URING}")
        }
        (_, Errno::PERM | Errno::ACCESS) => format!(
            "io_uring is not allowed here ({error}), and no seccomp filter is set: check whether a security module (SELinux, \
             AppArmor) or the sandbox around this process forbids it"
        ),
        (_, Errno::NOMEM) => format!("io_uring cannot lock memory: raise the limit ({RAISE_MEMLOCK})"),
        (_, Errno::MFILE | Errno::NFILE) => {
            format!("io_uring setup failed: {error}: raise the limit of open files ({})", descriptors::RAISE)
        }
        (_, error) => format!("io_uring setup failed: {error}"),
    };
    Err(Unfit(why))
}

/// Returns whether this process is exempt from the limit of locked memory: it has CAP_IPC_LOCK, and not only
/// in its own user namespace.
fn is_exempt() -> bool {
    let can_lock = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    can_lock && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Returns how much memory this many executors lock, in bytes. Measured on Linux 6.18: 104 KiB for a ring of
/// 1,024 entries.
fn locked_bytes(version: Option<Version>, executors: u64) -> u64 {
    let depth = RING_DEPTH as u64;
    let entries = (depth * SUBMISSION).next_multiple_of(PAGE);
    let ring = (2 * depth * COMPLETION + depth * INDEX + RING_HEAD).next_multiple_of(PAGE);
    let rings = match version {
        Some(version) if version < RINGS_UNLOCKED => entries.next_power_of_two() + ring.next_power_of_two(),
        Some(version) if version < RINGS_LOCKED_AGAIN => 0,
        _ => entries + ring,
    };
    executors * RINGS * (rings + IO_MEMORY as u64)
}

fn check_memlock(limit: u64, locked: u64, executors: usize) -> Result<(), Unfit> {
    let needed = locked.max(MEMLOCK_MIN);
    if limit >= needed {
        return Ok(());
    }
    let few = if executors > 1 { ", or run fewer shards (cores)" } else { "" };
    Err(Unfit(format!(
        "only {} KiB of memory may be locked (RLIMIT_MEMLOCK), but {executors} {} {} KiB: raise the limit ({RAISE_MEMLOCK}){few}",
        limit >> 10,
        if executors == 1 { "shard or client needs" } else { "shards need" },
        needed >> 10,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        assert_eq!(check_kernel("6.18.44-cloud"), Ok(()));
        assert_eq!(check_kernel("5.8.0"), Ok(()));
        assert_eq!(check_kernel("a name of its own"), Ok(()));
        assert!(check_kernel("5.4.0-150-generic").unwrap_err().0.contains("5.8 or later"));
        assert_eq!(check_uring("0", Some(true), Ok(())), Ok(()));
        let says = |setting, is_filtered, error, words: &str| {
            let why = check_uring(setting, is_filtered, Err(error)).unwrap_err().0;
            assert!(why.contains(words), "{why}");
            why
        };
        says("2", Some(true), Errno::PERM, "sysctl -w kernel.io_uring_disabled=0");
        says("0", Some(false), Errno::NOSYS, "CONFIG_IO_URING");
        says("0", None, Errno::PERM, "seccomp");
        says("0", Some(false), Errno::PERM, "SELinux");
        says("0", Some(false), Errno::NOMEM, "LimitMEMLOCK=infinity");
        says("0", Some(false), Errno::MFILE, "ulimit -n");
        for error in [Errno::PERM, Errno::ACCESS, Errno::NOSYS] {
            let why = says("0", Some(true), error, "seccomp");
            assert!(why.contains("io_uring_register") && !why.contains("CONFIG_IO_URING"), "{why}");
        }
    }

    #[test]
    fn a_seccomp_filter_is_detected_in_the_process_status() {
        assert_eq!(seccomp("Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"), Some(true));
        assert_eq!(seccomp("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"), Some(false));
        assert_eq!(seccomp("Name:\tx\n"), None);
    }

    #[test]
    fn locked_memory_is_counted_for_all_shards_on_kernels_that_count_it() {
        assert_eq!(locked_bytes(Some((6, 18)), 1), 504 << 10);
        assert_eq!(locked_bytes(None, 2), 1008 << 10);
        assert_eq!(locked_bytes(Some((6, 8)), 2), 384 << 10);
        assert_eq!(locked_bytes(Some((5, 10)), 1), 576 << 10);
        let two = locked_bytes(Some((6, 18)), 2);
        for (limit, fits) in [(64, false), (600, false), (1000, false), (1008, true), (8192, true)] {
            assert_eq!(check_memlock(limit << 10, two, 2).is_ok(), fits, "{limit} KiB");
        }
        let why = check_memlock(600 << 10, two, 2).unwrap_err().0;
        for words in
            ["only 600 KiB", "RLIMIT_MEMLOCK", "2 shards need 1008 KiB", "ulimit -l", "--ulimit memlock=-1"]
        {
            assert!(why.contains(words), "{words}: {why}");
        }
        // glommio demands its minimum even from exempt processes.
        assert_eq!(check_memlock(MEMLOCK_MIN, 0, 2), Ok(()));
        assert!(check_memlock(MEMLOCK_MIN - 1, 0, 2).is_err());
    }

    #[test]
    fn this_machine_can_run_the_tests() {
        assert_eq!(uring::probe(), Ok(()));
    }
}
