//! The real server on its embedded log: killed under load, opened again, and what its tools say.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/random.rs"]
mod random;
#[path = "common/service.rs"]
mod service;

use std::path::{Path, PathBuf};

use random::Random;
use service::{Feed, Service, check};

/// A data directory that is gone with the test.
struct DataDir(PathBuf);

impl DataDir {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How often the server is killed: more where somebody asks for it.
fn kills() -> u64 {
    std::env::var("MILLSTREAM_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10)
}

#[test]
fn killed_at_random_moments_it_has_everything_that_it_acknowledged_once_and_in_order() {
    let data = DataDir::new("killed");
    let mut random = Random(std::process::id().into());
    let base = ["--store", "log", "--data-dir", data.text(), "--partitions", "1", "--log-tail-bytes", "1MiB"];
    let mut service = Service::start(&[&base[..], &["--log-segment-bytes", "16MiB"]].concat());
    let feeds: Vec<Feed> = (0..3).map(|number| Feed::into(&service, &format!("load-{number}"))).collect();
    for kill in 0..kills() {
        let feed = &feeds[random.below(feeds.len())];
        feed.await_more(random.between(1, 60_000) as u64, &format!("progress before kill {kill}"));
        service.kill();
        service.restart();
    }
    for (number, feed) in feeds.into_iter().enumerate() {
        let (numbers, again) = feed.end();
        check(&service, &format!("load-{number}"), numbers, again);
    }
}
