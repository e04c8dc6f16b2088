//! The index of a segment: which partitions it holds, and where.
//!
//! A **run** is a stretch of a segment in which a partition has batches, including what lies between them. An
//! entry for each batch would take more room than the data if messages are small. A **span** is what one
//! segment holds of one partition. The index file of a sealed segment says where the segment ends. It is used
//! only if its checksums match; without it, the segment is scanned.
//!
//! ```text
//! header   magic "MSTRMIDX", version u32, checksum u32 of the version and the 24 bytes that follow,
//!          stamp u64, end u64 (position after the last round), spans u32, checksum u32 of the spans
//! span     incarnation u64, partition u64, first u64, end u64 (offsets), first and last timestamp u64,
//!          expiry u64 (the latest), bytes u64 (of batches), messages u64, runs u32, checksum u32 of its runs
//! run      first u64, end u64 (offsets), timestamp u64, position u64, bytes u64
//! stocks   magic "MSTRMSTK", size u32 of what follows the checksum, checksum u32 of the stamp and what follows; then for
//!          each span: portions u32, and of each portion: first u64, end u64 (offsets), messages u64, bytes u64 (in
//!          stored form), minute of expiry u64, visible u64, first and last timestamp u64
//! ```
//!
//! The runs of all spans follow the spans, in the same order. The stocks follow the runs. They say what the spans hold, so
//! that nothing must be read to count it. Versions before 0.3 neither write nor read them. Without them, a span counts as
//! one portion.

use std::collections::BTreeMap;
use std::ops::Range;

use super::format::{
    BatchHeader, OFFSET_MAX, PartitionId, Reader, TIME_MAX, Unreadable, VERSION, behind_prefix, checksum,
    with_prefix,
};
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};
use crate::store::stock::{Minute, PORTIONS_MAX, Portion, Stock};

const MAGIC: [u8; 8] = *b"MSTRMIDX";

/// The size of the header, in bytes.
pub const INDEX_HEADER: usize = 40;

/// The size of a span, in bytes.
pub const SPAN_BYTES: usize = 80;
/// The size of a run, in bytes.
pub const RUN_BYTES: usize = 40;

const STOCKS_MAGIC: [u8; 8] = *b"MSTRMSTK";

/// The size of what precedes the stocks, and of a portion, in bytes.
pub const STOCKS_HEADER: usize = 16;
const PORTION_BYTES: usize = 64;

/// The largest gap between two batches of a run, in bytes: reading such a gap costs less than another read.
const RUN_GAP: u64 = 4096;

/// The size up to which a run grows, in bytes. A run is read as a whole.
pub const RUN_BYTES_MAX: u64 = 256 << 10;

const _: () = assert!(RUN_GAP < RUN_BYTES_MAX, "a run spans more than one gap");

/// A stretch of a segment in which a partition has batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The offset of its first message.
    pub first: Offset,
    /// The offset after its last message.
    pub end: Offset,
    /// When its first batch was stored.
    pub timestamp: UnixMillis,
    /// Its position in the segment.
    pub at: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// A span without its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanHead {
    /// The offset of its first message.
    pub first: Offset,
    /// The offset after its last message.
    pub end: Offset,
    /// When its first batch was stored.
    pub oldest: UnixMillis,
    /// When its last batch was stored.
    pub newest: UnixMillis,
    /// When the last of its messages expires.
    pub expiry: UnixMillis,
    /// The size of its batches, in bytes.
    pub bytes: u64,
    /// The number of its messages.
    pub messages: u64,
}

impl SpanHead {
    /// Returns the head of two spans that follow one another.
    pub fn join(self, next: Self) -> Self {
        Self {
            first: self.first,
            end: self.end.max(next.end),
            oldest: self.oldest,
            newest: next.newest,
            expiry: self.expiry.max(next.expiry),
            bytes: self.bytes + next.bytes,
            messages: self.messages + next.messages,
        }
    }

    /// Returns its offsets.
    pub fn offsets(&self) -> Range<Offset> {
        self.first..self.end
    }

    /// Returns whether its numbers can be those of a span.
    fn is_sound(&self) -> bool {
        self.first <= self.end && self.end <= OFFSET_MAX && self.oldest.max(self.newest) <= TIME_MAX
    }

    /// Returns what a span holds of which only this is known.
    fn stock(&self) -> Stock {
        let Self { first, end, oldest, newest, expiry, bytes, messages } = *self;
        let (expires, visible) = (Minute::from(expiry), UnixMillis::ZERO);
        let whole = Portion { first, end, messages, bytes, expires, visible, oldest, newest };
        Stock::new(if messages > 0 { vec![whole] } else { Vec::new() })
    }
}

/// A span under construction, in a segment that is being written or scanned.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its offsets, times and sizes.
    pub head: SpanHead,
    /// Where its batches are.
    pub runs: Vec<Run>,
    /// What it holds. Empty if it holds the state of claims.
    pub stock: Stock,
}

impl Span {
    /// Creates a span of a single batch at position `at`.
    pub fn new(header: &BatchHeader, at: u64) -> Self {
        let mut span = Self {
            head: SpanHead {
                first: header.base_offset,
                end: header.base_offset,
                oldest: header.timestamp,
                newest: UnixMillis::ZERO,
                expiry: UnixMillis::ZERO,
                bytes: 0,
                messages: 0,
            },
            runs: Vec::new(),
            stock: Stock::default(),
        };
        span.push(header, at);
        span
    }

    /// Counts it more roughly, because it no longer grows.
    pub fn seal(&mut self) {
        self.stock.seal(self.head.bytes);
    }

    /// Adds the next batch, at position `at`.
    pub fn push(&mut self, header: &BatchHeader, at: u64) {
        let bytes = header.bytes() as u64;
        let head = &mut self.head;
        head.end = header.end_offset();
        head.newest = header.timestamp;
        head.expiry = head.expiry.max(header.expiry());
        head.bytes += bytes;
        head.messages += u64::from(header.count);
        if header.count > 0 && header.partition.of_state().is_none() {
            let (offsets, records) = (header.base_offset..head.end, u64::from(header.records));
            let (expiry, visible) = (header.expiry(), header.visible());
            self.stock.push(Portion::of_batch(offsets, records, header.timestamp, expiry, visible));
        }
        match self.runs.last_mut() {
            Some(run) if at - (run.at + run.bytes) <= RUN_GAP && at + bytes - run.at <= RUN_BYTES_MAX => {
                run.end = head.end;
                run.bytes = at + bytes - run.at;
            }
            _ => self.runs.push(Run {
                first: header.base_offset,
                end: head.end,
                timestamp: header.timestamp,
                at,
                bytes,
            }),
        }
    }
}

/// The spans of a segment, by partition.
pub type Spans = BTreeMap<PartitionId, Span>;

/// Adds the next batch of a segment, at position `at`.
pub fn add_to(spans: &mut Spans, header: &BatchHeader, at: u64) {
    spans
        .entry((header.incarnation, header.partition))
        .and_modify(|span| span.push(header, at))
        .or_insert_with(|| Span::new(header, at));
}

/// The place of a sealed span's runs in its index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunsAt {
    /// Their position in the index file.
    pub at: u64,
    /// The number of runs.
    pub count: u32,
    checksum: u32,
}

impl RunsAt {
    /// Returns their size, in bytes.
    pub fn bytes(&self) -> usize {
        self.count as usize * RUN_BYTES
    }

    /// Reads them. Returns `None` if they are damaged.
    pub fn parse(&self, bytes: &[u8]) -> Option<Vec<Run>> {
        if bytes.len() != self.bytes() || checksum(&[bytes]) != self.checksum {
            return None;
        }
        bytes
            .chunks_exact(RUN_BYTES)
            .map(|run| {
                let mut fields = Reader(run);
                let run = Run {
                    first: Offset(fields.u64()?),
                    end: Offset(fields.u64()?),
                    timestamp: UnixMillis::new(fields.u64()?),
                    at: fields.u64()?,
                    bytes: fields.u64()?,
                };
                (run.end <= OFFSET_MAX && run.at.checked_add(run.bytes).is_some()).then_some(run)
            })
            .collect()
    }
}

/// The index of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Where the segment's rounds end.
    pub end: u64,
    /// The spans of the segment, by partition, and where their runs are.
    pub spans: Vec<(PartitionId, SpanHead, RunsAt)>,
    /// What each span holds.
    pub stocks: Vec<Stock>,
}

impl Index {
    /// Returns the index of the segment with this stamp, and the content of its file.
    pub fn encode(stamp: u64, end: u64, spans: &Spans) -> (Self, Vec<u8>) {
        let mut runs_at = INDEX_HEADER + spans.len() * SPAN_BYTES;
        let (mut heads, mut all_runs, mut index) = (Vec::new(), Vec::new(), Vec::new());
        for (id, span) in spans {
            let begins = all_runs.len();
            for run in &span.runs {
                [run.first.0, run.end.0, run.timestamp.get(), run.at, run.bytes]
                    .iter()
                    .for_each(|field| all_runs.extend(field.to_le_bytes()));
            }
            let (count, checksum) = (span.runs.len() as u32, checksum(&[&all_runs[begins..]]));
            let SpanHead { first, end, oldest, newest, expiry, bytes, messages } = span.head;
            [
                id.0,
                u64::from(id.1.0),
                first.0,
                end.0,
                oldest.get(),
                newest.get(),
                expiry.get(),
                bytes,
                messages,
            ]
            .iter()
            .for_each(|field| heads.extend(field.to_le_bytes()));
            heads.extend(count.to_le_bytes());
            heads.extend(checksum.to_le_bytes());
            index.push((*id, span.head, RunsAt { at: runs_at as u64, count, checksum }));
            runs_at += span.runs.len() * RUN_BYTES;
        }
        let mut fields = Vec::new();
        fields.extend(stamp.to_le_bytes());
        fields.extend(end.to_le_bytes());
        fields.extend((spans.len() as u32).to_le_bytes());
        fields.extend(checksum(&[&heads]).to_le_bytes());
        let mut file = with_prefix(MAGIC, VERSION, &fields);
        file.extend(heads);
        file.extend(all_runs);
        let stocks: Vec<Stock> = spans.values().map(|span| span.stock.clone()).collect();
        put_stocks(stamp, &stocks, &mut file);
        (Self { end, spans: index, stocks }, file)
    }

    /// Reads the index of the segment with this stamp from the beginning of its file: [`INDEX_HEADER`] bytes,
    /// then [`Self::heads_bytes`] more.
    pub fn parse(stamp: u64, file: &[u8]) -> Result<Self, Unreadable> {
        let (of, end, count, sum) = Self::header(file)?;
        let heads = file.get(INDEX_HEADER..).and_then(|rest| rest.get(..count.checked_mul(SPAN_BYTES)?));
        let heads = heads.ok_or(Unreadable::Damaged)?;
        if of != stamp || checksum(&[heads]) != sum {
            return Err(Unreadable::Damaged);
        }
        let mut runs_at = (INDEX_HEADER + heads.len()) as u64;
        let spans = heads.chunks_exact(SPAN_BYTES).map(|head| {
            let mut fields = Reader(head);
            let mut field = || fields.u64();
            let id = (field()?, Partition(u16::try_from(field()?).ok()?));
            let head = SpanHead {
                first: Offset(field()?),
                end: Offset(field()?),
                oldest: UnixMillis::new(field()?),
                newest: UnixMillis::new(field()?),
                expiry: UnixMillis::new(field()?),
                bytes: field()?,
                messages: field()?,
            };
            let at = RunsAt { at: runs_at, count: fields.u32()?, checksum: fields.u32()? };
            runs_at += at.bytes() as u64;
            head.is_sound().then_some((id, head, at))
        });
        let spans = spans.collect::<Option<Vec<_>>>().ok_or(Unreadable::Damaged)?;
        let stocks = spans.iter().map(|((_, partition), head, _)| match partition.of_state() {
            Some(_) => Stock::default(),
            None => head.stock(),
        });
        let stocks = stocks.collect();
        Ok(Self { end, spans, stocks })
    }

    /// Returns where the stocks begin in the file.
    pub fn stocks_at(&self) -> u64 {
        let heads = (INDEX_HEADER + self.spans.len() * SPAN_BYTES) as u64;
        self.spans.last().map_or(heads, |(_, _, runs)| runs.at.saturating_add(runs.bytes() as u64))
    }

    /// Returns the size of the stocks that follow these [`STOCKS_HEADER`] bytes. `None` if there are none.
    pub fn stocks_bytes(&self, header: &[u8]) -> Option<usize> {
        let (size, _) = stocks_header(&mut Reader(header))?;
        let most = self.spans.len() * (4 + PORTIONS_MAX * PORTION_BYTES);
        (size <= most).then_some(size)
    }

    /// Takes over the stocks from the part of the file that begins with them. Returns false if they are damaged: then
    /// what is known without them stays.
    pub fn read_stocks(&mut self, stamp: u64, bytes: &[u8]) -> bool {
        let stocks = parse_stocks(stamp, bytes, &self.spans);
        let is_read = stocks.is_some();
        if let Some(stocks) = stocks {
            self.stocks = stocks;
        }
        is_read
    }

    /// Returns the stamp of the index's segment.
    pub fn stamp(file: &[u8]) -> Result<u64, Unreadable> {
        Ok(Self::header(file)?.0)
    }

    /// Returns the size of the spans that follow the header, in bytes.
    pub fn heads_bytes(header: &[u8]) -> Result<usize, Unreadable> {
        Self::header(header)?.2.checked_mul(SPAN_BYTES).ok_or(Unreadable::Damaged)
    }

    fn header(file: &[u8]) -> Result<(u64, u64, usize, u32), Unreadable> {
        let mut fields = Reader(behind_prefix(MAGIC, VERSION, file, INDEX_HEADER - 16)?.1);
        let mut read = || Some((fields.u64()?, fields.u64()?, fields.u32()? as usize, fields.u32()?));
        read().ok_or(Unreadable::Damaged)
    }
}

/// Adds what the spans hold to the end of an index file.
fn put_stocks(stamp: u64, stocks: &[Stock], file: &mut Vec<u8>) {
    let mut fields = Vec::new();
    for stock in stocks {
        fields.extend((stock.portions().len() as u32).to_le_bytes());
        for portion in stock.portions() {
            let Portion { first, end, messages, bytes, expires, visible, oldest, newest } = portion;
            let expires = u64::from(expires.0);
            [first.0, end.0, *messages, *bytes, expires, visible.get(), oldest.get(), newest.get()]
                .iter()
                .for_each(|field| fields.extend(field.to_le_bytes()));
        }
    }
    file.extend(STOCKS_MAGIC);
    file.extend((fields.len() as u32).to_le_bytes());
    file.extend(checksum(&[&stamp.to_le_bytes(), &fields]).to_le_bytes());
    file.extend(fields);
}

/// Reads the size and the checksum of stocks.
fn stocks_header(fields: &mut Reader<'_>) -> Option<(usize, u32)> {
    let is_it = fields.bytes(STOCKS_MAGIC.len())? == STOCKS_MAGIC;
    let header = (fields.u32()? as usize, fields.u32()?);
    is_it.then_some(header)
}

/// Reads the stocks of these spans.
fn parse_stocks(stamp: u64, bytes: &[u8], spans: &[(PartitionId, SpanHead, RunsAt)]) -> Option<Vec<Stock>> {
    let mut fields = Reader(bytes);
    let (size, sum) = stocks_header(&mut fields)?;
    let mut fields = Reader(fields.0.get(..size)?);
    if checksum(&[&stamp.to_le_bytes(), fields.0]) != sum {
        return None;
    }
    let stocks = spans.iter().map(|(_, head, _)| {
        let count = fields.u32().filter(|count| *count as usize <= PORTIONS_MAX)?;
        let mut end = head.first;
        let portions = (0..count).map(|_| {
            let portion = Portion {
                first: Offset(fields.u64()?),
                end: Offset(fields.u64()?),
                messages: fields.u64()?,
                bytes: fields.u64()?,
                expires: Minute(u32::try_from(fields.u64()?).ok()?),
                visible: UnixMillis::new(fields.u64()?),
                oldest: UnixMillis::new(fields.u64()?),
                newest: UnixMillis::new(fields.u64()?),
            };
            let is_next = end <= portion.first && portion.first < portion.end && portion.end <= head.end;
            end = portion.end;
            let is_sound = portion.messages <= head.messages && portion.bytes <= head.bytes;
            let is_timely =
                portion.oldest <= portion.newest && portion.newest.max(portion.visible) <= TIME_MAX;
            (is_next && is_sound && is_timely).then_some(portion)
        });
        portions.collect::<Option<Vec<_>>>().map(Stock::new)
    });
    stocks.collect::<Option<Vec<_>>>().filter(|_| fields.0.is_empty())
}
