//! The disk of the embedded log, as a shard uses it: segments by direct I/O on the shard's own ring, other
//! files on the executor's helper thread because they may block. Runs on the shard's thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};

use crate::store::log::disk::{Directory, Disk, FileName, Read, Step};
use crate::store::log::{OsDirectory, Tag, freeing_pause};

/// Whether writes are durable when they complete (`O_DSYNC`). That combines a write and its sync, and saves
/// one pass of the reactor before the completion is known.
type IsSynced = bool;

/// Open files, the most recently used last.
type Open = Vec<((FileName, IsSynced), Rc<DmaFile>)>;

/// The most unused files that a shard keeps open. More may be open while they are used: one for each load of
/// older messages, and those that are being written. A file that is removed elsewhere occupies its space
/// while it is open.
pub const OPEN_MAX: usize = 8;

/// The log's files of one shard. Clones share them.
#[derive(Clone)]
pub struct Files {
    directory: Arc<OsDirectory>,
    /// Open segments, with and without `O_DSYNC`.
    open: Rc<RefCell<Open>>,
    done: Rc<RefCell<VecDeque<(Tag, Read)>>>,
    /// Called after every completion.
    wake: Rc<dyn Fn()>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Files {
    /// Creates the files of `directory`. `wake` is called whenever steps are done.
    pub fn new(directory: Arc<OsDirectory>, wake: impl Fn() + 'static) -> Self {
        Self { directory, open: Rc::default(), done: Rc::default(), wake: Rc::new(wake) }
    }

    fn take(&self, key: &(FileName, IsSynced)) -> Option<Rc<DmaFile>> {
        let mut open = self.open.borrow_mut();
        let index = open.iter().position(|(other, _)| other == key)?;
        Some(open.remove(index).1)
    }

    async fn run(&self, steps: Vec<Step>) -> Read {
        let mut read = Vec::new();
        let mut steps = steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            if let Step::Write(file @ FileName::Segment(_), at, bytes) = &step
                && steps.next_if(|next| matches!(next, Step::Sync(synced) if synced == file)).is_some()
            {
                match self.open(*file, true).await? {
                    Some(open) => write(&open, *at, bytes).await?,
                    None => {
                        let steps = vec![step.clone(), Step::Sync(*file)];
                        self.run_blocking(steps).await.map(drop)?;
                    }
                }
                continue;
            }
            read.extend(self.run_step(step).await?);
        }
        Ok(read)
    }

    async fn run_step(&self, step: Step) -> Read {
        match &step {
            Step::Create(file) | Step::Remove(file) => {
                for is_synced in [false, true] {
                    let open = self.take(&(*file, is_synced));
                    if let Some(open) = open {
                        // Fails if a read still uses it. It is closed after that read.
                        let _ = open.close_rc().await;
                    }
                }
            }
            Step::Write(file @ FileName::Segment(_), at, bytes) => {
                if let Some(open) = self.open(*file, false).await? {
                    return write(&open, *at, bytes).await.map(|()| Vec::new());
                }
            }
            Step::Sync(file @ FileName::Segment(_)) => {
                if let Some(open) = self.open(*file, false).await? {
                    return open.fdatasync().await.map(|()| Vec::new()).map_err(error);
                }
            }
            Step::Read(file @ FileName::Segment(_), ranges) => {
                if let Some(open) = self.open(*file, false).await? {
                    return read(&open, ranges).await;
                }
            }
            Step::Shrink(..) => {
                let began = Instant::now();
                let read = self.run_blocking(vec![step]).await;
                glommio::timer::sleep(freeing_pause(began.elapsed())).await;
                return read;
            }
            _ => {}
        }
        self.run_blocking(vec![step]).await
    }

    async fn run_blocking(&self, steps: Vec<Step>) -> Read {
        let directory = self.directory.clone();
        let run = move || {
            let mut read = Vec::new();
            for step in &steps {
                read.extend(directory.run(step)?);
            }
            Ok(read)
        };
        glommio::executor().spawn_blocking(run).await
    }

    /// Returns a segment opened for direct I/O, or `None` if its file system does not support that.
    async fn open(&self, file: FileName, is_synced: IsSynced) -> io::Result<Option<Rc<DmaFile>>> {
        let key = (file, is_synced);
        if let Some(open) = self.take(&key) {
            self.open.borrow_mut().push((key, open.clone()));
            return Ok(Some(open));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(if is_synced { libc::O_DSYNC } else { 0 });
        match options.dma_open(self.directory.path_of(file)).await {
            Ok(open) => {
                let open = Rc::new(open);
                // Only unused files are removed: removing one in use would not close it, but would give its
                // place to another.
                let unused: Open = {
                    let mut all = self.open.borrow_mut();
                    all.push((key, open.clone()));
                    let over = all.len().saturating_sub(OPEN_MAX);
                    let unused = all.extract_if(.., |(_, file)| Rc::strong_count(file) == 1);
                    unused.take(over).collect()
                };
                for (_, file) in unused {
                    let _ = file.close_rc().await;
                }
                Ok(Some(open))
            }
            Err(why) => match error(why) {
                // glommio preserves only the kind of an error.
                why if why.kind() == io::ErrorKind::InvalidInput => Ok(None),
                why => Err(why),
            },
        }
    }
}

async fn write(file: &DmaFile, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = file.alloc_dma_buffer(bytes.len());
    buffer.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let written = file.write_at(buffer, at).await.map_err(error)?;
    if written < bytes.len() {
        return Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("wrote only {written} of {} bytes", bytes.len()),
        ));
    }
    Ok(())
}

async fn read(file: &Rc<DmaFile>, ranges: &[(u64, usize)]) -> Read {
    let reads: Vec<_> = ranges
        .iter()
        .map(|(at, length)| {
            let (file, at, length) = (file.clone(), *at, *length);
            glommio::spawn_local(async move { file.read_at(at, length).await.map(|read| read.to_vec()) })
        })
        .collect();
    let mut all = Vec::with_capacity(reads.len());
    for read in reads {
        all.push(read.await.map_err(error)?);
    }
    Ok(all)
}

fn error(error: GlommioError<()>) -> io::Error {
    error.into()
}

impl Disk<Tag> for Files {
    fn submit(&mut self, tag: Tag, steps: Vec<Step>) {
        let files = self.clone();
        glommio::spawn_local(async move {
            let read = files.run(steps).await;
            files.done.borrow_mut().push_back((tag, read));
            (files.wake)();
        })
        .detach();
    }

    fn poll(&mut self) -> Option<(Tag, Read)> {
        self.done.borrow_mut().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::executor::{ExecutorSettings, spawn};
    use crate::store::log::BLOCK;

    #[test]
    fn files_in_use_stay_open_and_only_unused_ones_are_closed() {
        let path = std::env::temp_dir().join(format!("millstream-files-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let directory = Arc::new(OsDirectory::new(&path, 0));
        let places = 0..2 * OPEN_MAX as u32;
        for place in places.clone() {
            std::fs::write(directory.path_of(FileName::Segment(place)), [0; BLOCK]).unwrap();
        }
        let settings = ExecutorSettings { name: "files".into(), core: None };
        let counted = spawn(settings, move || async move {
            let files = Files::new(directory, || {});
            let mut used = Vec::new();
            for place in places {
                used.push(files.open(FileName::Segment(place), false).await.unwrap().expect("direct I/O"));
            }
            let in_use = files.open.borrow().len();
            let first = used.swap_remove(0);
            drop(used);
            files.open(FileName::Segment(0), true).await.unwrap().expect("direct I/O");
            let is_kept = files.open.borrow().iter().any(|(_, file)| Rc::ptr_eq(file, &first));
            (in_use, files.open.borrow().len(), is_kept)
        });
        let counted = counted.unwrap().join().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(counted, (2 * OPEN_MAX, OPEN_MAX, true));
    }
}
