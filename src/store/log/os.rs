//! The data directory as the operating system gives it: blocking, for the start, for tools, and for what the shards leave to a
//! thread that may wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::disk::{Directory, FileName, Read, Reserve, Step};
use super::format::BLOCK;

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

    /// Makes the directory if it is not there, and locks it for as long as the file that is returned is open.
    pub fn lock(path: &Path) -> io::Result<File> {
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        fs::create_dir_all(path)?;
        for made in missing {
            // What stands directly in the working directory has no name before it.
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path.join("lock"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
                ErrorKind::ResourceBusy,
                "another server, or a tool, uses it: each directory is one server's",
            )),
            Err(error) => Err(error.into()),
        }
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

    fn run(&self, step: &Step) -> Read {
        match step {
            Step::Create(file) => {
                OpenOptions::new().write(true).create(true).truncate(true).open(self.path_of(*file))?;
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
        }
        Ok(Vec::new())
    }
}
