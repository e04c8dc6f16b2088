//! The data directory as the operating system gives it: blocking, for the start, for tools, and for what the shards leave to a
//! thread that may wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::{Directory, FileName, Identity, Read, Reserve, Step, salvage_ranges};
use super::format::BLOCK;
use super::history::Moment;

/// Who may read what: the owner alone. Messages are their tenants'.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// How long after it was made a file's content, and after that its inode, may change by our own hand.
const TOUCHED_NS: u64 = 60_000_000_000;

/// Bytes of zeros that are written at once.
const ZEROS: usize = 1 << 20;

/// See the module's page.
#[derive(Clone, Debug)]
pub struct OsDirectory {
    path: PathBuf,
    /// What [`Step::Zero`] leaves free on the disk, bytes.
    min_free_bytes: u64,
}

impl OsDirectory {
    /// The directory of that path, which is there.
    pub fn new(path: &Path, min_free_bytes: u64) -> Self {
        Self { path: path.to_owned(), min_free_bytes }
    }

    /// Makes the directory if it is not there, and locks it for as long as what is returned lives.
    ///
    /// The lock is on the directory itself: a file in it could be removed, and then made and locked by another. File systems that
    /// lock no directories (NFS) have the file `lock` alone, which earlier versions lock, too.
    pub fn lock(path: &Path) -> io::Result<DirectoryLock> {
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
        for made in missing {
            // What stands directly in the working directory has no name before it.
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        let directory = File::open(path)?;
        match lock(&directory) {
            // EBADF: NFS wants a file that is open for writing, and no directory ever is.
            Err(error)
                if error.raw_os_error() == Some(libc::EBADF) || error.kind() == ErrorKind::Unsupported =>
            {
                tracing::warn!(
                    data_dir = %path.display(),
                    %error,
                    "the file system locks no directories: do not remove the file lock in it while a server runs"
                );
            }
            locked => locked?,
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path.join("lock"))?;
        lock(&file)?;
        if directory.metadata()?.permissions().mode() & 0o077 != 0 {
            tracing::warn!(
                data_dir = %path.display(),
                "other users can look into the data directory: chmod 700 it, and chmod 600 its files"
            );
        }
        Ok(DirectoryLock { _directory: directory, _file: file })
    }

    /// Where a file of it is.
    pub fn path_of(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }

    fn writable(&self, file: FileName) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path_of(file))
    }

    fn zero(&self, file: FileName, at: u64, bytes: u64, reserve: Reserve) -> io::Result<()> {
        let stat = rustix::fs::statvfs(&self.path)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if reserve == Reserve::Keep && free < bytes.saturating_add(self.min_free_bytes) {
            return Err(io::Error::new(
                ErrorKind::StorageFull,
                format!("{free} bytes are free, and log_min_free_bytes = {} are left", self.min_free_bytes),
            ));
        }
        // Past the system's cache, where it can be: nobody reads them, and to copy them costs a fifth of a shard's time at full load.
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(self.path_of(file));
        let file = direct.or_else(|_| self.writable(file))?;
        let zeros = vec![0; ZEROS + BLOCK];
        let aligned = &zeros[zeros.as_ptr().align_offset(BLOCK).min(BLOCK)..][..ZEROS];
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(ZEROS as u64);
            file.write_all_at(&aligned[..part as usize], at + done)?;
            done += part;
        }
        Ok(())
    }

    fn read(&self, file: FileName, ranges: &[(u64, usize)]) -> Read {
        let file = File::open(self.path_of(file))?;
        let length = file.metadata()?.len();
        ranges
            .iter()
            .map(|(at, wanted)| {
                let there = length.saturating_sub(*at).min(*wanted as u64);
                let mut bytes = vec![0; there as usize];
                file.read_exact_at(&mut bytes, *at)?;
                Ok(bytes)
            })
            .collect()
    }
}

/// Keeps others out of a data directory for as long as it lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _directory: File,
    _file: File,
}

fn lock(file: &File) -> io::Result<()> {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "another server, or a tool, uses it: each directory is one server's",
        )),
        locked => Ok(locked?),
    }
}

/// Now, in this boot of the machine.
pub fn moment() -> Moment {
    let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = u128::from_str_radix(&boot.trim().replace('-', ""), 16).unwrap_or_default();
    Moment { unix_ns, boot }
}

impl Directory for OsDirectory {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Some(file) = entry.file_name().to_str().and_then(FileName::parse) {
                files.push((file, entry.metadata()?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn identity(&self, file: FileName) -> io::Result<Identity> {
        use rustix::fs::{AtFlags, CWD, StatxFlags, StatxTimestamp, statx};
        // Kernels of before 6.8 give the mount's number, which is used again.
        let unique_mount = StatxFlags::from_bits_retain(0x4000);
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID | unique_mount;
        let found = statx(CWD, self.path_of(file), AtFlags::empty(), wanted)?;
        let nanos = |time: StatxTimestamp| {
            time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.tv_nsec))
        };
        let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        // We write it once, when it is made.
        let written_ns = nanos(found.stx_mtime).saturating_sub(nanos(found.stx_btime));
        let changed_ns = nanos(found.stx_ctime).saturating_sub(nanos(found.stx_mtime)).max(written_ns);
        Ok(Identity {
            inode: found.stx_ino,
            made_ns: if is_told { nanos(found.stx_btime) } else { 0 },
            mount: found.stx_mnt_id,
            is_touched: changed_ns > TOUCHED_NS,
        })
    }

    fn run(&self, step: &Step) -> Read {
        match step {
            Step::Create(file) => {
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(FILE_MODE)
                    .open(self.path_of(*file))?;
            }
            Step::Zero { file, at, bytes, reserve } => self.zero(*file, *at, *bytes, *reserve)?,
            Step::Write(file, at, bytes) => self.writable(*file)?.write_all_at(bytes, *at)?,
            Step::Sync(file) => self.writable(*file)?.sync_data()?,
            Step::Rename(from, to) => fs::rename(self.path_of(*from), self.path_of(*to))?,
            Step::Remove(file) => match fs::remove_file(self.path_of(*file)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            Step::SyncDirectory => File::open(&self.path)?.sync_all()?,
            Step::Read(file, ranges) => return self.read(*file, ranges),
            Step::Salvage(file, ranges) => {
                // What the system's cache still has of it says nothing of the medium.
                if let Ok(open) = File::open(self.path_of(*file)) {
                    let _ = rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed);
                }
                return salvage_ranges(self, *file, ranges);
            }
        }
        Ok(Vec::new())
    }
}
