//! A backup that is being made: a directory beside the earlier backup, whose place it takes in the end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::direct::owner_to_keep;
use super::{DirectDirectory, DirectoryLock, OsDirectory};
use crate::store::log::backup::Earlier;
use crate::store::log::disk::{Directory, FileName, Step, freeing_pause, remove_file};

/// What follows the name of a backup in the name of the directory in which it is made. Nobody else names a directory
/// so, because what is found in it is removed.
const SUFFIX: &str = ".backup-under-way";

/// The reason that a backup cannot take its place.
const MOUNT_POINT: &str = "it is a mount point: name a directory in it";

/// The file that is locked in a data directory.
const LOCK: &str = "lock";

/// A directory in which a backup is made, locked. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    /// The place of the backup.
    path: PathBuf,
    /// Where it is made.
    new: PathBuf,
    files: DirectDirectory,
    earlier: Option<Earlier>,
    _locks: (DirectoryLock, Option<DirectoryLock>),
}

impl Staging {
    /// Prepares a backup of the data directory `source` in `path`, which must be missing, empty, or a backup.
    /// What an interrupted backup has left is removed.
    pub fn begin(path: &Path, source: &Path) -> io::Result<Self> {
        let (path, new) = places(path, &fs::canonicalize(source)?)?;
        let earlier = earlier(&path)?;
        if let Some(earlier) = &earlier
            && !earlier.is_of(&OsDirectory::new(source, 0))?
        {
            return Err(refused("it is a backup of another data directory"));
        }
        let lock_earlier = earlier.is_some().then(|| OsDirectory::lock(&path)).transpose()?;
        if new.exists() {
            let lock = OsDirectory::lock(&new).map_err(|error| match error.kind() {
                ErrorKind::ResourceBusy => refused("another backup to it is under way"),
                _ => within(&new, error),
            })?;
            clear(&new, &path)?;
            drop(lock);
        }
        let lock = OsDirectory::lock(&new).map_err(|error| within(&new, error))?;
        let owner = owner_to_keep(source);
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&new, Some(user), Some(group))?;
            std::os::unix::fs::chown(new.join(LOCK), Some(user), Some(group))?;
        }
        let files = DirectDirectory::new(&new).owned(owner);
        Ok(Self { path, new, files, earlier, _locks: (lock, lock_earlier) })
    }

    /// Returns the directory in which the backup is made.
    pub fn files(&self) -> &DirectDirectory {
        &self.files
    }

    /// Returns what the earlier backup holds, if there is one.
    pub fn earlier(&self) -> Option<&Earlier> {
        self.earlier.as_ref()
    }

    /// Returns the bytes that are free for the backup.
    pub fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.new)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Takes a file from the earlier backup, without copying. Returns false if that is impossible.
    pub fn adopt(&self, file: FileName) -> bool {
        let name = file.to_string();
        fs::hard_link(self.path.join(&name), self.new.join(&name)).is_ok()
    }

    /// Puts the backup in the place of the earlier one, which is removed. The files must be durable.
    pub fn finish(self) -> io::Result<()> {
        if self.earlier.is_some() {
            swap(&self.new, &self.path)?;
        } else {
            // Replaces an empty directory.
            fs::rename(&self.new, &self.path).map_err(|error| match error.kind() {
                ErrorKind::ResourceBusy => refused(MOUNT_POINT),
                _ => error,
            })?;
        }
        File::open(parent(&self.path))?.sync_all()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What is left is removed by the next backup.
        if self.new.exists() {
            let _ = clear(&self.new, &self.path).and_then(|()| {
                fs::remove_file(self.new.join(LOCK))?;
                fs::remove_dir(&self.new)
            });
        }
    }
}

/// Returns the place of the backup, and where it is made.
fn places(path: &Path, source: &Path) -> io::Result<(PathBuf, PathBuf)> {
    // A symbolic link stays, and leads to the backup.
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = path.file_name().ok_or_else(|| refused("it has no name"))?;
            let parent = fs::canonicalize(parent(path)).map_err(|error| within(parent(path), error))?;
            parent.join(name)
        }
        found => found?,
    };
    if path.starts_with(source) {
        return Err(refused("it is the data directory, or within it"));
    }
    let mut name = path.file_name().map(OsString::from).ok_or_else(|| refused("it has no name"))?;
    name.push(SUFFIX);
    let new = path.with_file_name(name);
    Ok((path, new))
}

/// Returns what the earlier backup holds; `None` if there is none.
fn earlier(path: &Path) -> io::Result<Option<Earlier>> {
    let mut entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let Some(_) = entries.next() else { return Ok(None) };
    let earlier = Earlier::read(&OsDirectory::new(path, 0))?;
    let earlier =
        earlier.ok_or_else(|| refused("it is neither empty nor a backup; name another directory"))?;
    strangers(path)?;
    Ok(Some(earlier))
}

/// Fails if a directory has files that are not the log's, which must not be removed.
fn strangers(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK && name.to_str().and_then(FileName::parse).is_none() {
            return Err(within(path, refused(&format!("it has a file that is not of a backup: {name:?}"))));
        }
    }
    Ok(())
}

/// Removes the log's files from a directory that has no others. Files that are in `keep`, too, may have the
/// same content there.
fn clear(path: &Path, keep: &Path) -> io::Result<()> {
    strangers(path)?;
    // The manifest goes first: what is left without it is no backup.
    let manifest = path.join(FileName::Backup.to_string());
    if manifest.exists() {
        fs::remove_file(manifest)?;
    }
    let directory = OsDirectory::new(path, 0);
    for (file, bytes) in directory.list()? {
        let is_shared = keep.join(file.to_string()).exists();
        for step in remove_file(file, if is_shared { 0 } else { bytes }) {
            if let Step::Shrink(..) = step {
                let began = Instant::now();
                // Fails for files of others. They can be removed all the same.
                let _ = directory.run(&step);
                // A server may use the same disk.
                sleep(freeing_pause(began.elapsed()));
            } else {
                directory.run(&step)?;
            }
        }
    }
    Ok(())
}

/// Exchanges two directories.
fn swap(new: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        // Not every file system can. Then the backup has no name for a moment.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::XDEV) => {
            let mut name = path.file_name().map(OsString::from).unwrap_or_default();
            name.push(".old");
            let old = path.with_file_name(name);
            fs::rename(path, &old)?;
            fs::rename(new, path)?;
            fs::rename(&old, new)
        }
        Err(Errno::BUSY) => Err(refused(MOUNT_POINT)),
        swapped => Ok(swapped?),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

fn within(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
