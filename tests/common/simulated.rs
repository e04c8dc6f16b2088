//! A simulated disk. After a power loss it keeps what was synced, and of the rest a random set of 512-byte
//! sectors. It fails on demand.
//!
//! The unit tests of `store::log` and `tests/simulation` include this file, each in a module that also
//! contains the log's `disk`, `Tag` and `BLOCK` and the tests' `random`.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Directory, Disk, FileName, Identity, Read, Reserve, Step, salvage_ranges};
use super::random::Random;
use super::{BLOCK, Tag};

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors that may differ between `now` and `durable`.
    dirty: BTreeSet<usize>,
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.now.len() < at + bytes.len() {
            self.now.resize(at + bytes.len(), 0);
        }
        self.now[at..at + bytes.len()].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
    }

    /// Makes a dirty sector durable.
    fn persist(&mut self, sector: usize) {
        let (at, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.now.len()));
        if at >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[at..end].copy_from_slice(&self.now[at..end]);
    }
}

/// A change of the directory that is not synced yet.
#[derive(Clone, Debug)]
enum Change {
    Put(FileName, usize),
    Take(FileName),
    Move(FileName, FileName),
}

type Names = BTreeMap<FileName, usize>;

fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Put(name, file) => {
            names.insert(*name, *file);
        }
        Change::Take(name) => {
            names.remove(name);
        }
        Change::Move(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(*to, file);
            }
        }
    }
}

#[derive(Debug)]
struct Under {
    user: u16,
    tag: Tag,
    steps: VecDeque<Step>,
    read: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct DiskState {
    /// Decides what the disk does.
    random: Random,
    /// Generates the unpredictable numbers that a server asks for.
    entropy: Random,
    files: Vec<File>,
    names: Names,
    durable_names: Names,
    changes: Vec<Change>,
    under_way: Vec<Under>,
    done: VecDeque<(u16, Tag, Read)>,
    steps: u64,
    /// The capacity of the disk, without the reserve, which never runs out.
    bytes_max: Option<u64>,
    /// The number of the first step that fails, the error, and the number of steps that fail.
    fails: Option<(u64, i32, u64)>,
    /// How often everything was restored from a backup.
    copies: u64,
    /// The blocks that cannot be read.
    bad: BTreeSet<(FileName, u64)>,
}

/// A copy of a disk.
#[derive(Clone, Debug)]
pub struct Backup(Vec<(FileName, usize, Vec<u8>)>);

impl Backup {
    /// Returns the end of a file's contents. Only zeros follow.
    pub fn used(&self, name: FileName) -> usize {
        let file = self.0.iter().find(|(of, ..)| *of == name);
        file.and_then(|(.., bytes)| bytes.iter().rposition(|byte| *byte != 0)).map_or(0, |last| last + 1)
    }
}

/// The simulated disk of one shard. Clones share the disk.
#[derive(Clone, Debug)]
pub struct Simulated {
    state: Arc<Mutex<DiskState>>,
    /// The shard whose completions this handle polls.
    user: u16,
}

impl Simulated {
    pub fn new(seed: u64) -> Self {
        let state = DiskState {
            random: Random(seed),
            entropy: Random(!seed),
            files: Vec::new(),
            names: Names::new(),
            durable_names: Names::new(),
            changes: Vec::new(),
            under_way: Vec::new(),
            done: VecDeque::new(),
            steps: 0,
            bytes_max: None,
            fails: None,
            copies: 0,
            bad: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), user: 0 }
    }

    /// Returns the same disk for another shard.
    pub fn of(&self, user: u16) -> Self {
        Self { user, ..self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap()
    }

    /// Returns whether this shard has a completion that it has not polled.
    pub fn has_done(&self) -> bool {
        self.lock().done.iter().any(|(user, ..)| *user == self.user)
    }

    /// Returns how many reads of partitions are pending.
    pub fn reads(&self) -> usize {
        self.lock().under_way.iter().filter(|under| matches!(under.tag, Tag::Read(..))).count()
    }

    /// Runs one step of a random pending request. Returns false if none is pending.
    pub fn advance(&self) -> bool {
        let mut state = self.lock();
        if state.under_way.is_empty() {
            return false;
        }
        let count = state.under_way.len();
        let index = state.random.below(count);
        let step = state.under_way[index].steps.pop_front();
        let result = match step {
            Some(Step::Salvage(file, ranges)) => {
                drop(state);
                let read = salvage_ranges(self, file, &ranges);
                state = self.lock();
                read
            }
            step => step.map_or(Ok(Vec::new()), |step| state.run(&step)),
        };
        match result {
            Ok(read) => {
                state.under_way[index].read.extend(read);
                if state.under_way[index].steps.is_empty() {
                    let Under { user, tag, read, .. } = state.under_way.swap_remove(index);
                    state.done.push_back((user, tag, Ok(read)));
                }
            }
            Err(error) => {
                let Under { user, tag, .. } = state.under_way.swap_remove(index);
                state.done.push_back((user, tag, Err(error)));
            }
        }
        true
    }

    /// Makes the `steps`-th step from now fail, and the following ones, `count` in total.
    pub fn fail_after(&self, steps: u64, errno: i32, count: u64) {
        let mut state = self.lock();
        state.fails = Some((state.steps + steps, errno, count));
    }

    /// Limits the capacity of the disk from now on.
    pub fn limit(&self, bytes_max: u64) {
        self.lock().bytes_max = Some(bytes_max);
    }

    pub fn heal(&self) {
        self.lock().fails = None;
    }

    /// Simulates a power loss: of the unsynced data, a random part survives.
    pub fn lose_power(&self) {
        let mut state = self.lock();
        let DiskState { random, files, names, durable_names, changes, under_way, done, .. } = &mut *state;
        under_way.clear();
        done.clear();
        let kept = random.below(changes.len() + 1);
        changes.drain(..kept).for_each(|change| apply(durable_names, &change));
        changes.clear();
        names.clone_from(durable_names);
        for file in files {
            for sector in std::mem::take(&mut file.dirty) {
                if random.one_in(2) {
                    file.persist(sector);
                }
            }
            file.now.clone_from(&file.durable);
        }
    }

    /// Simulates the death of the process: everything written survives.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.under_way.clear();
        state.done.clear();
    }

    /// Makes a block of a file unreadable.
    pub fn spoil(&self, name: FileName, block: u64) {
        self.lock().bad.insert((name, block));
    }

    /// Makes all blocks readable again.
    pub fn cure(&self) {
        self.lock().bad.clear();
    }

    /// Truncates a file.
    pub fn cut(&self, name: FileName, length: usize) {
        let mut state = self.lock();
        let file = state.names[&name];
        state.files[file].now.truncate(length);
        state.files[file].durable.truncate(length);
        state.files[file].dirty.clear();
    }

    /// Returns the contents of a file.
    pub fn bytes(&self, name: FileName) -> Vec<u8> {
        let state = self.lock();
        state.files[state.names[&name]].now.clone()
    }

    /// Returns a copy of everything written.
    pub fn backup(&self) -> Backup {
        let state = self.lock();
        let of = |(name, index): (&FileName, &usize)| (*name, *index, state.files[*index].now.clone());
        Backup(state.names.iter().map(of).collect())
    }

    /// Restores a backup: into new files, or into the old ones if the file system itself was rolled back.
    pub fn restore(&self, backup: &Backup, is_rolled_back: bool) {
        let mut state = self.lock();
        state.under_way.clear();
        state.done.clear();
        state.changes.clear();
        state.copies += u64::from(!is_rolled_back);
        state.names.clear();
        for (name, index, bytes) in &backup.0 {
            let file = File { now: bytes.clone(), durable: bytes.clone(), dirty: BTreeSet::new() };
            let index = if is_rolled_back { *index } else { state.files.len() };
            if is_rolled_back {
                state.files[index] = file;
            } else {
                state.files.push(file);
            }
            state.names.insert(*name, index);
        }
        state.durable_names = state.names.clone();
    }

    /// Restores one file from a backup.
    pub fn put_back(&self, backup: &Backup, name: FileName) {
        let (_, index, bytes) = backup.0.iter().find(|(of, ..)| *of == name).unwrap();
        let mut state = self.lock();
        state.files[*index] = File { now: bytes.clone(), durable: bytes.clone(), dirty: BTreeSet::new() };
        state.names.insert(name, *index);
        state.durable_names.insert(name, *index);
    }

    /// Flips bits in a byte of a file.
    pub fn flip(&self, name: FileName, at: usize, bits: u8) {
        let mut state = self.lock();
        let file = state.names[&name];
        state.files[file].now[at] ^= bits;
        state.files[file].durable[at] ^= bits;
    }
}

impl DiskState {
    fn file(&mut self, name: FileName) -> io::Result<&mut File> {
        let index = self.names.get(&name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(&mut self.files[*index])
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn run(&mut self, step: &Step) -> Read {
        self.steps += 1;
        let fails = self.fails.filter(|(at, _, count)| (*at..at + count).contains(&self.steps));
        if let Some((_, errno, _)) = fails {
            self.fail(step);
            return Err(io::Error::from_raw_os_error(errno));
        }
        match step {
            Step::Create(name) => {
                self.bad.retain(|(of, _)| of != name);
                self.files.push(File::default());
                self.change(Change::Put(*name, self.files.len() - 1));
            }
            Step::Zero { file, at, bytes, reserve } => {
                let used: u64 = self.names.values().map(|file| self.files[*file].now.len() as u64).sum();
                if self.bytes_max.is_some_and(|max| used + bytes > max) && *reserve == Reserve::Keep {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.file(*file)?.write(*at as usize, &vec![0; *bytes as usize]);
            }
            Step::Write(name, at, bytes) => {
                self.file(*name)?.write(*at as usize, bytes);
                // A device remaps a bad block to another place when it is written.
                let blocks = at.div_ceil(BLOCK as u64)..(at + bytes.len() as u64) / BLOCK as u64;
                self.bad.retain(|(of, block)| of != name || !blocks.contains(block));
            }
            Step::Sync(name) => {
                let file = self.file(*name)?;
                file.durable.truncate(file.now.len());
                for sector in std::mem::take(&mut file.dirty) {
                    file.persist(sector);
                }
            }
            Step::Rename(from, to) => {
                self.bad.retain(|(of, _)| of != to);
                self.change(Change::Move(*from, *to));
            }
            Step::Shrink(name, bytes) => {
                let is_durable = self.random.one_in(2);
                if let Ok(file) = self.file(*name) {
                    file.now.truncate(*bytes as usize);
                    if is_durable {
                        file.durable.truncate(*bytes as usize);
                    }
                }
            }
            Step::Remove(name) => {
                self.bad.retain(|(of, _)| of != name);
                self.change(Change::Take(*name));
            }
            Step::SyncDirectory => {
                self.changes.clear();
                self.durable_names.clone_from(&self.names);
            }
            // The directory reads its ranges in separate steps.
            Step::Salvage(..) => return Ok(Vec::new()),
            Step::Read(name, ranges) => {
                let is_bad = |(at, length): &(u64, usize)| {
                    let blocks = *at / BLOCK as u64..(*at + *length as u64).div_ceil(BLOCK as u64);
                    self.bad.iter().any(|(of, block)| of == name && blocks.contains(block))
                };
                if ranges.iter().any(is_bad) {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                let file = self.file(*name)?;
                let read = |(at, length): &(u64, usize)| {
                    let rest = file.now.get(*at as usize..).unwrap_or_default();
                    rest[..rest.len().min(*length)].to_vec()
                };
                return Ok(ranges.iter().map(read).collect());
            }
        }
        Ok(Vec::new())
    }

    /// Applies the effects of a step that fails.
    fn fail(&mut self, step: &Step) {
        match step {
            Step::Write(name, at, bytes) => {
                let mut random = self.random.clone();
                if let Ok(file) = self.file(*name) {
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.one_in(2) {
                            file.write(*at as usize + index * SECTOR, sector);
                        }
                    }
                }
                self.random = random;
            }
            // The system marks failed pages as clean, so the next sync succeeds without writing them.
            Step::Sync(name) => {
                let mut random = self.random.clone();
                if let Ok(file) = self.file(*name) {
                    for sector in std::mem::take(&mut file.dirty) {
                        if random.one_in(2) {
                            file.persist(sector);
                        }
                    }
                }
                self.random = random;
            }
            _ => {}
        }
    }
}

impl Disk<Tag> for Simulated {
    fn submit(&mut self, tag: Tag, steps: Vec<Step>) {
        let user = self.user;
        self.lock().under_way.push(Under { user, tag, steps: steps.into(), read: Vec::new() });
    }

    fn poll(&mut self) -> Option<(Tag, Read)> {
        let mut state = self.lock();
        let index = state.done.iter().position(|(user, ..)| *user == self.user)?;
        state.done.remove(index).map(|(_, tag, read)| (tag, read))
    }
}

impl Directory for Simulated {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        let state = self.lock();
        Ok(state.names.iter().map(|(name, file)| (*name, state.files[*file].now.len() as u64)).collect())
    }

    fn identity(&self, file: FileName) -> io::Result<Identity> {
        let state = self.lock();
        let index = state.names.get(&file).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Identity { inode: *index as u64, made_ns: 1 + state.copies, mount: 1, is_touched: false })
    }

    fn random(&self) -> u128 {
        let random = &mut self.lock().entropy;
        u128::from(random.next()) << 64 | u128::from(random.next())
    }

    fn run(&self, step: &Step) -> Read {
        if let Step::Salvage(file, ranges) = step {
            return salvage_ranges(self, *file, ranges);
        }
        self.lock().run(step)
    }
}
