//! A shard's environment in the simulation: clocks, pipes, and the inboxes of the other shards.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use millstream::base::clock::{Now, Step, WallClock};
use millstream::shard::core::Letter;
use millstream::shard::delivery::Delivery;
use millstream::shard::transport::{self, Secure, Tls};
use millstream::shard::turn::Host;
use millstream::tls::Counters;

use super::clock::Clock;
use super::pipe::{Kernel, Ready, ServerEnd, Shared, Socket};

/// A bounded inbox.
#[derive(Debug)]
pub struct Inbox {
    queue: RefCell<VecDeque<Delivery<Shared>>>,
    capacity: usize,
}

impl Inbox {
    pub fn new(capacity: usize) -> Self {
        Self { queue: RefCell::default(), capacity }
    }

    pub fn send(&self, delivery: Delivery<Shared>) -> Result<(), Delivery<Shared>> {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= self.capacity {
            return Err(delivery);
        }
        queue.push_back(delivery);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }
}

/// The environment of one shard.
#[derive(Debug)]
pub struct Surroundings {
    number: u16,
    inboxes: Rc<[Inbox]>,
    ready: Ready,
    kernel: Rc<Kernel>,
    clock: Clock,
    /// When the server started.
    epoch: Duration,
    wall: WallClock,
    /// Open connections that the shard has received.
    connections: Rc<Cell<usize>>,
    /// What TLS connections share, if all connections speak it.
    tls: Option<Rc<Tls>>,
}

impl Surroundings {
    pub fn new(
        number: u16,
        inboxes: Rc<[Inbox]>,
        kernel: Rc<Kernel>,
        clock: Clock,
        step_max: Duration,
        connections: Rc<Cell<usize>>,
        tls: Option<Rc<Tls>>,
    ) -> Self {
        let (epoch, wall, ready) = (clock.mono(), WallClock::new(step_max), Ready::default());
        wall.look(Duration::ZERO, clock.unix());
        Self { number, inboxes, ready, kernel, clock, epoch, wall, connections, tls }
    }

    /// Returns the time since the server's start, without a reading that takes time.
    pub fn since_start(&self) -> Duration {
        self.clock.mono() - self.epoch
    }

    /// Returns whether the inbox has a batch or a socket is ready.
    pub fn has_news(&self) -> bool {
        !self.inboxes[usize::from(self.number)].is_empty() || self.has_ready()
    }
}

impl Host for Surroundings {
    type Accepted = Shared;
    type Transport = transport::Socket<Socket>;

    fn elapsed(&self) -> Duration {
        self.clock.look() - self.epoch
    }

    fn now(&self) -> Now {
        let elapsed = self.elapsed();
        self.wall.look(elapsed, self.clock.unix())
    }

    fn take_step(&mut self) -> Option<Step> {
        self.wall.take_step()
    }

    fn inbox_depth(&self) -> usize {
        self.inboxes[usize::from(self.number)].queue.borrow().len()
    }

    fn poll_inbox(&mut self) -> Option<Delivery<Shared>> {
        self.inboxes[usize::from(self.number)].queue.borrow_mut().pop_front()
    }

    fn send(&mut self, shard: u16, letters: Vec<Letter>) -> Result<(), Vec<Letter>> {
        match self.inboxes[usize::from(shard)].send(Delivery::Letters(letters)) {
            Err(Delivery::Letters(letters)) => Err(letters),
            _ => Ok(()),
        }
    }

    fn take_ready(&mut self, slots: &mut Vec<u32>) {
        slots.append(&mut self.ready.borrow_mut());
    }

    fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    fn accept(&mut self, accepted: Shared, slot: u32) -> io::Result<Self::Transport> {
        if self.kernel.fails() {
            accepted.borrow_mut().server = ServerEnd::Gone;
            return Err(io::ErrorKind::NotConnected.into());
        }
        let plain = Socket::new(accepted, slot, self.ready.clone(), self.kernel.clone());
        Ok(match &self.tls {
            Some(tls) => transport::Socket::Secure(Box::new(Secure::new(plain, tls)?)),
            None => transport::Socket::Plain(plain),
        })
    }

    fn tls(&self) -> Counters {
        self.tls.as_ref().map(|tls| tls.counters()).unwrap_or_default()
    }

    fn refuse(&mut self, accepted: Shared, _why: &str) {
        accepted.borrow_mut().server = ServerEnd::Gone;
    }

    fn count_gone(&mut self) {
        self.connections.set(self.connections.get() - 1);
    }
}
