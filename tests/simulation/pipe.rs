//! A connection: a bounded pipe in each direction, with the readiness of a real socket.
//!
//! Readiness is edge-triggered. A read that finds nothing arms it, and new bytes or the peer's end then mark
//! the connection as ready. A write that does not fit arms it, and new room then marks the connection as
//! ready.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::rc::Rc;

use millstream::shard::transport::Transport;

use super::random::Random;

/// The most bytes that a partial read or write moves.
const PIECE_BYTES: usize = 5_000;

/// Random behaviour of the kernel.
#[derive(Debug)]
pub struct Kernel {
    pub random: RefCell<Random>,
    /// The odds of failure: one read, write or accept in this many fails. 0 disables failures.
    pub failing: Cell<usize>,
    /// Whether reads and writes move only a part.
    pub piecemeal: Cell<bool>,
}

impl Kernel {
    /// Draws whether an operation fails.
    pub fn fails(&self) -> bool {
        self.failing.get() > 0 && self.random.borrow_mut().one_in(self.failing.get())
    }

    fn piece(&self, bytes: usize) -> usize {
        if self.piecemeal.get() { self.random.borrow_mut().between(1, PIECE_BYTES).min(bytes) } else { bytes }
    }
}

/// The slots of ready connections.
pub type Ready = Rc<RefCell<Vec<u32>>>;

#[derive(Debug)]
struct Mark {
    slot: u32,
    is_marked: Cell<bool>,
    ready: Ready,
}

impl Mark {
    fn mark(&self) {
        if !self.is_marked.replace(true) {
            self.ready.borrow_mut().push(self.slot);
        }
    }
}

/// The state of the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEnd {
    Open,
    /// The server has ended its half.
    Shut,
    /// The server has closed the connection.
    Gone,
}

/// A simulated connection.
#[derive(Debug)]
pub struct Pipe {
    pub up: VecDeque<u8>,
    pub down: VecDeque<u8>,
    /// The capacity of each direction, in bytes.
    room: usize,
    is_read_armed: bool,
    is_write_armed: bool,
    mark: Option<Rc<Mark>>,
    is_client_gone: bool,
    pub server: ServerEnd,
}

/// A connection that both ends share.
pub type Shared = Rc<RefCell<Pipe>>;

impl Pipe {
    pub fn new(room: usize) -> Shared {
        Rc::new(RefCell::new(Self {
            up: VecDeque::new(),
            down: VecDeque::new(),
            room,
            is_read_armed: false,
            is_write_armed: false,
            mark: None,
            is_client_gone: false,
            server: ServerEnd::Open,
        }))
    }

    /// Puts bytes before those of the client, like a proxy.
    pub fn announce(&mut self, header: &[u8]) {
        for byte in header.iter().rev() {
            self.up.push_front(*byte);
        }
    }

    fn wake(&mut self, is_read: bool) {
        let armed = if is_read { &mut self.is_read_armed } else { &mut self.is_write_armed };
        if std::mem::take(armed)
            && let Some(mark) = &self.mark
        {
            mark.mark();
        }
    }

    /// Sends from the client up to `most` bytes, as far as there is room. Returns how many.
    pub fn send(&mut self, bytes: &mut VecDeque<u8>, most: usize) -> usize {
        let count = bytes.len().min(most).min(self.room.saturating_sub(self.up.len()));
        if count > 0 {
            self.up.extend(bytes.drain(..count));
            self.wake(true);
        }
        count
    }

    /// Receives up to `most` bytes at the client.
    pub fn receive(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.down.len());
        let bytes = self.down.drain(..count).collect();
        if self.down.len() < self.room {
            self.wake(false);
        }
        bytes
    }

    /// Closes the client's end.
    pub fn close(&mut self) {
        self.is_client_gone = true;
        self.wake(true);
        self.wake(false);
    }

    /// Drops the bytes in flight.
    pub fn lose(&mut self) {
        self.up.clear();
        self.down.clear();
    }

    /// Marks the connection as ready without a reason, as a kernel may.
    pub fn mark_idly(&self) {
        if let Some(mark) = &self.mark {
            mark.mark();
        }
    }
}

/// The server's end of a connection.
#[derive(Debug)]
pub struct Socket {
    pipe: Shared,
    mark: Rc<Mark>,
    kernel: Rc<Kernel>,
    is_readable: bool,
}

impl Socket {
    pub fn new(pipe: Shared, slot: u32, ready: Ready, kernel: Rc<Kernel>) -> Self {
        let mark = Rc::new(Mark { slot, is_marked: Cell::new(false), ready });
        pipe.borrow_mut().mark = Some(mark.clone());
        Self { pipe, mark, kernel, is_readable: true }
    }

    fn reset(&self) -> io::Error {
        let mut pipe = self.pipe.borrow_mut();
        pipe.lose();
        pipe.server = ServerEnd::Gone;
        ErrorKind::ConnectionReset.into()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        pipe.server = ServerEnd::Gone;
        pipe.mark = None;
    }
}

impl Transport for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.kernel.fails() {
            return Err(self.reset());
        }
        let mut pipe = self.pipe.borrow_mut();
        self.is_readable = pipe.is_client_gone || !pipe.up.is_empty();
        if pipe.up.is_empty() {
            if pipe.is_client_gone {
                return Ok(Some(0));
            }
            pipe.is_read_armed = true;
            return Ok(None);
        }
        let count = self.kernel.piece(pipe.up.len().min(buffer.len()));
        for (to, from) in buffer.iter_mut().zip(pipe.up.drain(..count)) {
            *to = from;
        }
        Ok(Some(count))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.kernel.fails() {
            return Err(self.reset());
        }
        let mut pipe = self.pipe.borrow_mut();
        if pipe.is_client_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(pipe.room.saturating_sub(pipe.down.len()));
        pipe.down.extend(&bytes[..count]);
        pipe.is_write_armed = count < bytes.len();
        Ok(count)
    }

    fn is_readable(&self) -> bool {
        self.is_readable
    }

    fn shut_down(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.server == ServerEnd::Open {
            pipe.server = ServerEnd::Shut;
        }
    }

    fn mark(&self) {
        self.mark.mark();
    }

    fn clear_mark(&mut self) {
        self.mark.is_marked.set(false);
        self.is_readable = true;
    }
}
