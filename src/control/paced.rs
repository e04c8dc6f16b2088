//! An answer that is made once for all who wait for it, and only so often.
//!
//! Asking the shards costs them time. However many requests come, and however fast, that cost stays bounded. No request gets an
//! answer that was begun before the request came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Paced<T> {
    pace: Duration,
    waiting: AtomicUsize,
    last: Mutex<Last<T>>,
}

#[derive(Debug)]
struct Last<T> {
    begun: Option<Instant>,
    /// Kept only while others wait: nobody who comes later may have it.
    made: Option<T>,
}

/// Counts a request while it waits, also one that is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    fn is_alone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T: Clone> Paced<T> {
    /// Answers that are begun at least `pace` apart.
    pub(super) fn new(pace: Duration) -> Self {
        let last = Last { begun: None, made: None };
        Self { pace, waiting: AtomicUsize::new(0), last: Mutex::new(last) }
    }

    /// The answer that `make` gives, or one that another request has begun to make since this one came.
    pub(super) async fn get(&self, make: impl Future<Output = T>) -> T {
        let came = Instant::now();
        let waiting = Waiting::new(&self.waiting);
        let mut last = self.last.lock().await;
        let made = match last.made.take() {
            Some(made) if last.begun.is_some_and(|begun| begun > came) => made,
            _ => {
                if let Some(begun) = last.begun {
                    sleep_until(begun + self.pace).await;
                }
                // Noted first: a request that is given up meanwhile has cost the shards as much.
                last.begun = Some(Instant::now());
                make.await
            }
        };
        if !waiting.is_alone() {
            last.made = Some(made.clone());
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Notify;

    /// Answers that are numbered as they are begun, each given when `go` says so.
    struct Source {
        paced: Paced<usize>,
        begun: AtomicUsize,
        go: Notify,
    }

    impl Source {
        fn new(pace: Duration) -> Arc<Self> {
            Arc::new(Self { paced: Paced::new(pace), begun: AtomicUsize::new(0), go: Notify::new() })
        }

        async fn get(self: Arc<Self>) -> usize {
            let make = async {
                let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
                self.go.notified().await;
                number
            };
            self.paced.get(make).await
        }
    }

    fn block_on(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn those_who_come_while_an_answer_is_made_share_the_next_one() {
        block_on(async {
            let source = Source::new(Duration::ZERO);
            let first = tokio::spawn(source.clone().get());
            while source.begun.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            let others: Vec<_> = (0..20).map(|_| tokio::spawn(source.clone().get())).collect();
            while source.paced.waiting.load(Ordering::Relaxed) < 21 {
                tokio::task::yield_now().await;
            }
            source.go.notify_one();
            assert_eq!(first.await.unwrap(), 1);
            source.go.notify_one();
            for other in others {
                assert_eq!(other.await.unwrap(), 2, "never the one that was begun before they came");
            }
            assert_eq!(source.begun.load(Ordering::Relaxed), 2);
            assert_eq!(source.paced.last.lock().await.made, None, "the last one leaves nothing behind");
        });
    }

    #[test]
    fn a_request_that_is_given_up_counts_for_the_pace() {
        block_on(async {
            let pace = Duration::from_millis(50);
            let source = Source::new(pace);
            let given_up = tokio::spawn(source.clone().get());
            while source.begun.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            let begun = source.paced.last.try_lock().is_err();
            assert!(begun, "it holds the place");
            let before = Instant::now();
            given_up.abort();
            assert!(given_up.await.unwrap_err().is_cancelled());
            let asked = source.paced.last.lock().await.begun.unwrap();
            assert!(asked <= before);
            source.go.notify_one();
            assert_eq!(source.clone().get().await, 2);
            assert!(Instant::now() >= asked + pace);
        });
    }
}
