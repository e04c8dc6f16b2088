//! An answer that is made once for all requests that wait for it, at a limited rate.
//!
//! Asking the shards costs them time. That cost stays bounded, however many requests arrive. A request never
//! gets an answer whose making began before the request arrived.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// A source of answers, made at most once per `pace`.
#[derive(Debug)]
pub(super) struct Paced<T> {
    pace: Duration,
    waiting: AtomicUsize,
    last: Mutex<Last<T>>,
}

#[derive(Debug)]
struct Last<T> {
    begun: Option<Instant>,
    /// The answer to share. Kept only while other requests wait, because later ones must not get it.
    made: Option<T>,
}

/// Counts a request while it waits, even if it is cancelled.
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
    /// Creates a source that starts making answers at least `pace` apart.
    pub(super) fn new(pace: Duration) -> Self {
        let last = Last { begun: None, made: None };
        Self { pace, waiting: AtomicUsize::new(0), last: Mutex::new(last) }
    }

    /// Returns the answer of `make`, or an answer that another request started to make after this call.
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
                // Recorded first, because a request that is cancelled during `make` has cost the shards as
                // much.
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

    /// Numbered answers. Each is returned when `go` is notified.
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
    fn requests_that_arrive_while_an_answer_is_made_share_the_next_one() {
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
                assert_eq!(other.await.unwrap(), 2, "never an answer that was begun before they arrived");
            }
            assert_eq!(source.begun.load(Ordering::Relaxed), 2);
            assert_eq!(source.paced.last.lock().await.made, None, "the last request keeps no answer");
        });
    }

    #[test]
    fn a_cancelled_request_counts_for_the_pace() {
        block_on(async {
            let pace = Duration::from_millis(50);
            let source = Source::new(pace);
            let given_up = tokio::spawn(source.clone().get());
            while source.begun.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            let begun = source.paced.last.try_lock().is_err();
            assert!(begun, "the request holds the lock");
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
