//! A flag that tells a shard's store that librdkafka has something for it: librdkafka's threads set it, and
//! the shard clears it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag, and the function that wakes its shard.
pub struct News {
    is_there: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl News {
    /// Creates a flag. `wake` is called, on any thread, once for everything that arrives until the shard
    /// clears the flag. It must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        // Something may have arrived before the store looks for the first time.
        Self { is_there: AtomicBool::new(true), wake: Box::new(wake) }
    }

    /// Sets the flag, and wakes the shard if it was not set.
    pub(super) fn ring(&self) {
        if !self.is_there.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
    }

    /// Clears the flag. Returns whether something has arrived. Later arrivals wake the shard again.
    #[inline]
    pub(super) fn take(&self) -> bool {
        self.is_there.load(Ordering::Relaxed) && self.is_there.swap(false, Ordering::SeqCst)
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("News")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn it_wakes_once_until_it_is_cleared() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = woken.clone();
        let news = News::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert!(news.take() && !news.take());
        news.ring();
        news.ring();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(news.take());
        news.ring();
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }
}
