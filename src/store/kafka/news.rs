//! Whether librdkafka has something for a shard's store: its threads say so, and the shard takes it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag, and the function that wakes its shard.
pub struct News {
    is_there: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl News {
    /// Calls `wake` once for all that arrives until the shard takes it; on any thread. `wake` must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        // Something may have arrived before the first look.
        Self { is_there: AtomicBool::new(true), wake: Box::new(wake) }
    }

    /// Something has arrived.
    pub(super) fn ring(&self) {
        if !self.is_there.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
    }

    /// Whether something has arrived. Later arrivals ring again.
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
    fn it_wakes_once_until_it_is_taken() {
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
