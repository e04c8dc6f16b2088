//! A data directory whose segments are read and written past the page cache, so that a backup pushes nothing
//! else out of it. File systems without direct I/O go through it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use super::OsDirectory;
use crate::store::log::disk::{Directory, FileName, Identity, Read, Step};
use crate::store::log::format::BLOCK;

/// The user and the group that own files.
pub(super) type Owner = (u32, u32);

/// A data directory whose segments are read and written past the page cache.
#[derive(Debug)]
pub struct DirectDirectory {
    directory: OsDirectory,
    /// The owner of new files, if it is not the process's user.
    owner: Option<Owner>,
}

impl DirectDirectory {
    /// Uses the existing directory at this path.
    pub fn new(path: &Path) -> Self {
        Self { directory: OsDirectory::new(path, 0), owner: None }
    }

    /// Gives new files this owner.
    pub(super) fn owned(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    fn open(&self, file: FileName, is_written: bool, flags: i32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(!is_written).write(is_written).custom_flags(flags).open(self.directory.path_of(file))
    }

    /// Reads a range by direct I/O.
    fn read(&self, file: FileName, at: u64, wanted: usize) -> io::Result<Vec<u8>> {
        let open = self.open(file, false, libc::O_DIRECT)?;
        let begin = at / BLOCK as u64 * BLOCK as u64;
        let length = (at + wanted as u64).next_multiple_of(BLOCK as u64) - begin;
        let mut buffer = vec![0; length as usize + BLOCK];
        let aligned = aligned(&mut buffer, length as usize);
        let mut done = 0;
        // A read that ends within a block has reached the end of the file.
        while done < aligned.len() && done.is_multiple_of(BLOCK) {
            match open.read_at(&mut aligned[done..], begin + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let first = ((at - begin) as usize).min(done);
        Ok(aligned[first..done.min(first + wanted)].to_vec())
    }

    /// Writes whole blocks by direct I/O.
    fn write(&self, file: FileName, at: u64, bytes: &[u8]) -> io::Result<()> {
        let open = self.open(file, true, libc::O_DIRECT)?;
        let mut buffer = vec![0; bytes.len() + BLOCK];
        let aligned = aligned(&mut buffer, bytes.len());
        aligned.copy_from_slice(bytes);
        open.write_all_at(aligned, at)
    }

    /// Makes what was written durable now, instead of all at the end, and drops it from the page cache.
    fn drop_cached(&self, file: FileName, is_written: bool) {
        if let Ok(open) = self.open(file, is_written, 0) {
            // The step itself has succeeded, and a sync follows in the end.
            let _ = if is_written { open.sync_data() } else { Ok(()) };
            let _ = fadvise(&open, 0, None, Advice::DontNeed);
        }
    }
}

fn aligned(buffer: &mut [u8], length: usize) -> &mut [u8] {
    let from = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
    &mut buffer[from..][..length]
}

fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidInput
}

impl Directory for DirectDirectory {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        self.directory.list()
    }

    fn identity(&self, file: FileName) -> io::Result<Identity> {
        self.directory.identity(file)
    }

    fn run(&self, step: &Step) -> Read {
        match step {
            Step::Create(file) => {
                self.directory.run(step)?;
                if let Some((user, group)) = self.owner {
                    std::os::unix::fs::chown(self.directory.path_of(*file), Some(user), Some(group))?;
                }
                Ok(Vec::new())
            }
            Step::Read(file @ FileName::Segment(_), ranges) => {
                let read = ranges.iter().map(|(at, wanted)| self.read(*file, *at, *wanted)).collect();
                match read {
                    Err(error) if is_unsupported(&error) => {
                        let read = self.directory.run(step)?;
                        self.drop_cached(*file, false);
                        Ok(read)
                    }
                    read => read,
                }
            }
            Step::Write(file @ FileName::Segment(_), at, bytes) => match self.write(*file, *at, bytes) {
                Err(error) if is_unsupported(&error) => {
                    self.directory.run(step)?;
                    self.drop_cached(*file, true);
                    Ok(Vec::new())
                }
                written => written.map(|()| Vec::new()),
            },
            _ => self.directory.run(step),
        }
    }
}

/// Returns the owner of a directory, if this process may give files away and is another user.
pub(super) fn owner_to_keep(path: &Path) -> Option<Owner> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    let owner = (found.uid(), found.gid());
    (rustix::process::geteuid().is_root() && owner != (0, 0)).then_some(owner)
}
