//! The data directory with the blocking calls of the operating system: for the start, for tools, and for the
//! work that shards leave to a thread that may block.

mod direct;
mod staging;

pub use direct::DirectDirectory;
pub use staging::Staging;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::{Directory, FileName, Identity, Read, Reserve, Step, salvage_ranges};
use super::format::BLOCK;
use super::history::Moment;

/// Only the owner of the process may read the files: messages belong to their tenants.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// The longest time that the server itself leaves between making a file and writing its content, and between
/// that and changing its inode, in nanoseconds. A longer time points to another tool.
const TOUCHED_NS: u64 = 60_000_000_000;

/// The bytes that this process has read with the blocking calls of this file.
static BYTES_READ: AtomicU64 = AtomicU64::new(0);

/// Returns the bytes that this process has read with blocking calls: at the start, the progress of recovery.
pub fn bytes_read() -> u64 {
    BYTES_READ.load(Ordering::Relaxed)
}

/// Zeros written at once, in bytes.
const ZEROS: usize = 1 << 20;

/// A data directory in the file system.
#[derive(Clone, Debug)]
pub struct OsDirectory {
    path: PathBuf,
    /// The bytes that [`Step::Zero`] leaves free on the disk.
    min_free_bytes: u64,
}

impl OsDirectory {
    /// Uses the existing directory at this path.
    pub fn new(path: &Path, min_free_bytes: u64) -> Self {
        Self { path: path.to_owned(), min_free_bytes }
    }

    /// Creates the directory if it is missing, and locks it until the returned lock is dropped.
    ///
    /// The lock is on the directory itself: a lock file could be removed, and then created and locked by
    /// another process. The file `lock` is locked as well, for file systems that cannot lock directories
    /// (NFS), and because earlier versions lock it.
    pub fn lock(path: &Path) -> io::Result<DirectoryLock> {
        if path.exists() && !path.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
        for made in missing {
            // A path directly in the working directory has an empty parent.
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        let directory = File::open(path)?;
        match lock(&directory) {
            // EBADF: NFS locks only files that are open for writing, which a directory never is.
            Err(error)
                if error.raw_os_error() == Some(libc::EBADF) || error.kind() == ErrorKind::Unsupported =>
            {
                tracing::warn!(
                    data_dir = %path.display(),
                    %error,
                    "the file system cannot lock directories: do not remove the file named lock while a server runs"
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
                "data directory accessible to other users: run chmod 700 on it and chmod 600 on its files"
            );
        }
        Ok(DirectoryLock { _directory: directory, _file: file })
    }

    /// Returns the path of a file in the directory.
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
                format!("{free} bytes are free; log_min_free_bytes = {} must stay free", self.min_free_bytes),
            ));
        }
        // Without the page cache, if possible: nobody reads the zeros, and copying them costs a fifth of a
        // shard's time at full load.
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

    fn shrink(&self, file: FileName, bytes: u64) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let file = match self.writable(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let found = file.metadata()?;
        // Another name is another owner's, such as a copy of the directory that was made of links.
        if found.nlink() == 1 && found.len() > bytes {
            file.set_len(bytes)?;
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
                BYTES_READ.fetch_add(there, Ordering::Relaxed);
                Ok(bytes)
            })
            .collect()
    }
}

/// Keeps other processes out of a data directory until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _directory: File,
    _file: File,
}

fn lock(file: &File) -> io::Result<()> {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "in use by another server or a tool: give each server its own directory, and stop it before a tool uses that, or let the \
             tool read a backup",
        )),
        locked => Ok(locked?),
    }
}

/// Returns the current time, with the id of this boot of the machine.
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
        // Kernels before 6.8 return the mount's reusable number instead.
        let unique_mount = StatxFlags::from_bits_retain(0x4000);
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID | unique_mount;
        let found = statx(CWD, self.path_of(file), AtFlags::empty(), wanted)?;
        let nanos = |time: StatxTimestamp| {
            time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.tv_nsec))
        };
        let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        // The server writes the file once, when it makes it.
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
            Step::Shrink(file, bytes) => self.shrink(*file, *bytes)?,
            Step::Read(file, ranges) => return self.read(*file, ranges),
            Step::Salvage(file, ranges) => {
                // Bytes from the page cache would say nothing about the medium.
                if let Ok(open) = File::open(self.path_of(*file)) {
                    let _ = rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed);
                }
                return salvage_ranges(self, *file, ranges);
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_unless_it_has_another_name() {
        let path = std::env::temp_dir().join(format!("millstream-shrink-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let directory = OsDirectory::new(&path, 0);
        let file = FileName::Segment(7);
        let bytes = || fs::metadata(directory.path_of(file)).unwrap().len();
        directory.run(&Step::Shrink(file, 1)).expect("a missing file is no error");
        fs::write(directory.path_of(file), [1; 3 * BLOCK]).unwrap();
        let link = path.join("link");
        fs::hard_link(directory.path_of(file), &link).unwrap();
        directory.run(&Step::Shrink(file, BLOCK as u64)).unwrap();
        assert_eq!(fs::read(&link).unwrap(), [1; 3 * BLOCK], "the other name's content is whole");
        fs::remove_file(link).unwrap();
        directory.run(&Step::Shrink(file, BLOCK as u64)).unwrap();
        assert_eq!(bytes(), BLOCK as u64);
        directory.run(&Step::Shrink(file, 2 * BLOCK as u64)).unwrap();
        assert_eq!(bytes(), BLOCK as u64, "no file is extended");
        fs::remove_dir_all(&path).unwrap();
    }
}
