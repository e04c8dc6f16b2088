//! Commands in a special environment: on a terminal, in a network of their own, or with forbidden system
//! calls.
#![allow(dead_code, unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

/// `io_uring_setup`, `io_uring_enter` and `io_uring_register`. The numbers are the same on all supported
/// architectures.
pub const IO_URING: RangeInclusive<u32> = 425..=427;

/// Makes the kernel answer these system calls of a command with an error, as a container's seccomp filter
/// does.
pub fn forbid(command: &mut Command, calls: RangeInclusive<u32>, errno: i32) {
    use libc::{BPF_ABS, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter};
    let step = |code: u32, jt, jf, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the system call is the first field of the filter's input.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JGE | BPF_K, 0, 2, *calls.start()),
        step(BPF_JMP | BPF_JGT | BPF_K, 1, 0, *calls.end()),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | errno as u32),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let (yes, none, mode): (libc::c_ulong, libc::c_ulong, libc::c_ulong) =
            (1, 0, libc::SECCOMP_MODE_FILTER.into());
        // SAFETY: the first call takes only numbers; the second reads `program` and its filter, which outlive
        // the call.
        let is_installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) == 0
        };
        if is_installed { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec, the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// Gives a command a network of its own, where every port of 127.0.0.1 is free. If the kernel forbids that,
/// the command shares ours.
pub fn give_network(command: &mut Command) {
    let enter = || {
        // SAFETY: system calls on values of this function.
        unsafe {
            // With a user namespace, the command need not be root.
            if libc::unshare(libc::CLONE_NEWNET) != 0
                && libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) != 0
            {
                return Ok(());
            }
            // The loopback device of a new network is down.
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
            request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            let is_up = socket >= 0 && libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) == 0;
            if is_up { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
    };
    // SAFETY: between fork and exec, the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

/// Opens a new terminal. Returns the side of the viewer and the side of the command.
fn terminal() -> (File, File) {
    let open = |path: &OsStr| File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let screen = open(OsStr::new("/dev/ptmx")).unwrap();
    let mut name = [0; 64];
    // SAFETY: the descriptor is open. The name is written within the buffer and ends with a zero.
    let is_named = unsafe {
        libc::unlockpt(screen.as_raw_fd()) == 0
            && libc::ptsname_r(screen.as_raw_fd(), name.as_mut_ptr(), name.len()) == 0
    };
    assert!(is_named, "{}", io::Error::last_os_error());
    // SAFETY: as above, the buffer contains a zero-terminated name.
    let path = unsafe { CStr::from_ptr(name.as_ptr()) };
    let keyboard = open(OsStr::from_bytes(path.to_bytes())).unwrap();
    (screen, keyboard)
}

/// Runs a command whose standard output is a terminal. Returns what it wrote there, and its other output with
/// the exit status.
pub fn run_on_terminal(mut command: Command) -> (Vec<u8>, Output) {
    let (mut screen, end) = terminal();
    let child = command.stdin(Stdio::null()).stdout(end).stderr(Stdio::piped()).spawn().unwrap();
    // Drops this process's copy of the terminal, so that the child's is the last one.
    drop(command);
    let mut shown = Vec::new();
    // Reading from a terminal that no process has open fails, once everything is read.
    let ended = screen.read_to_end(&mut shown).unwrap_err();
    assert_eq!(ended.raw_os_error(), Some(libc::EIO));
    (shown, child.wait_with_output().unwrap())
}
