//! The tokens of the control port: a file with their digests and what each may do.
//!
//! ```text
//! # NAME  DIGEST  RIGHT
//! prometheus sha256:0f9c… read
//! deploy sha256:77ab… change
//! ```
//! The file is read again when it changes, and by a reload. A file that does not work changes nothing.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::right::Right;
use crate::auth::token::{Digest, lines};
use crate::base::setting::Unworkable;
use crate::tls::files;

/// The time between two looks at whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The largest file of tokens, in bytes. A line takes about 100.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The longest name of a token, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The tokens of a running server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Not held while a file is read, because that may block.
    state: Mutex<State>,
    applied: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// `None` if requests need no token.
    list: Option<List>,
    /// The file as it was when it was read last, whether it worked or not.
    seen: Option<Stamp>,
}

/// The contents of a file that works.
#[derive(Clone, Debug)]
struct List {
    path: PathBuf,
    tokens: Arc<HashMap<Digest, Token>>,
}

/// A token: its name for the log, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) name: Arc<str>,
    pub(super) right: Right,
}

/// What a reload has read, and no request uses yet.
#[derive(Debug)]
pub struct ReadTokens(State);

/// Changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        Self {
            file: (of.dev(), of.ino()),
            bytes: of.len(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

impl Tokens {
    /// Reads the file of the setting `control_tokens`, if it names one.
    pub fn load(path: Option<&Path>) -> Result<Self, Unworkable> {
        let tokens = Self::default();
        *tokens.state() = read(path)?.0;
        Ok(tokens)
    }

    /// Reads the file that a reload names. If that fails, counts it. Changes nothing else.
    pub fn read(&self, path: Option<&Path>) -> Result<ReadTokens, Unworkable> {
        read(path).inspect_err(|_| {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Uses what was read from now on.
    pub fn apply(&self, ReadTokens(read): ReadTokens) {
        if read.list.is_some() {
            self.0.applied.fetch_add(1, Ordering::Relaxed);
        }
        *self.state() = read;
    }

    /// Returns how often the file was read again successfully, and how often that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.0.applied.load(Ordering::Relaxed), self.0.failed.load(Ordering::Relaxed))
    }

    /// Returns whether requests over TCP need a token.
    pub(super) fn are_required(&self) -> bool {
        self.state().list.is_some()
    }

    /// Returns the token with this text, if there is one.
    pub(super) fn find(&self, text: &str) -> Option<Token> {
        let tokens = Arc::clone(&self.state().list.as_ref()?.tokens);
        tokens.get(&Digest::of(text)).cloned()
    }

    /// Reads the file again whenever it has changed. Never returns.
    pub(super) async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tokens = self.clone();
            // A file system that does not answer must not stop the control port. The next look waits for this one.
            let _ = tokio::task::spawn_blocking(move || tokens.look()).await;
        }
    }

    /// Reads the file again if it has changed.
    fn look(&self) {
        let (path, seen) = {
            let state = self.state();
            let Some(list) = &state.list else { return };
            (list.path.clone(), state.seen)
        };
        let stamp = fs::metadata(&path).ok().as_ref().map(Stamp::from);
        if stamp == seen {
            return;
        }
        match self.read(Some(&path)) {
            Ok(read) => {
                // A reload that names another file was faster.
                if self.state().list.as_ref().is_some_and(|list| list.path == path) {
                    self.apply(read);
                    tracing::info!(path = %path.display(), "tokens of the control port read again");
                }
            }
            Err(why) => {
                // The same contents are not tried again.
                self.state().seen = stamp;
                tracing::error!(%why, "reading the tokens of the control port again failed: the old ones stay");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: Option<&Path>) -> Result<ReadTokens, Unworkable> {
    let Some(path) = path else { return Ok(ReadTokens(State::default())) };
    let failed = |why: String| Unworkable(format!("control_tokens: {}: {why}", path.display()));
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    let bytes = files::read("control_tokens", path)?.bytes;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(failed(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("not UTF-8 text".into()))?;
    let tokens = Arc::new(parse(&text).map_err(failed)?);
    Ok(ReadTokens(State {
        list: Some(List { path: path.to_owned(), tokens }),
        // Read before the contents: a change in between is noticed by the next look.
        seen: Some(Stamp::from(&metadata)),
    }))
}

/// Parses the contents of a file. An error names the line, and never repeats it: it may contain a token.
fn parse(text: &str) -> Result<HashMap<Digest, Token>, String> {
    let mut tokens = HashMap::new();
    for (number, line) in lines(text)? {
        let bad = |why: &str| format!("line {number}: {why}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, digest, right] = words[..] else {
            return Err(bad("not NAME sha256:DIGEST and read or change"));
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        if name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name) {
            return Err(bad(
                "the name is longer than 64 bytes, or has other characters than letters, digits and -_.@",
            ));
        }
        let digest = Digest::parse(digest)
            .ok_or_else(|| bad("the second word is not sha256: and 64 hexadecimal digits"))?;
        let right = match right {
            "read" => Right::Read,
            "change" => Right::Change,
            _ => return Err(bad("the third word is neither read nor change")),
        };
        if tokens.insert(digest, Token { name: name.into(), right }).is_some() {
            return Err(bad("the token is listed twice"));
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, token: &str, right: &str) -> String {
        format!("{name} {} {right}\n", Digest::of(token))
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("millstream-tokens-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, text: &str) -> PathBuf {
            let path = self.0.join("tokens");
            fs::write(self.0.join("new"), text).unwrap();
            fs::rename(self.0.join("new"), &path).unwrap();
            path
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn tokens_are_found_by_their_text() {
        let text = format!("# ours\n{}{}", line("scraper", "one", "read"), line("deploy", "two", "change"));
        let tokens = parse(&text).unwrap();
        assert_eq!(tokens.len(), 2);
        let of = |text| tokens.get(&Digest::of(text)).map(|token| (&*token.name, token.right));
        assert_eq!((of("one"), of("two")), (Some(("scraper", Right::Read)), Some(("deploy", Right::Change))));
        assert_eq!((of("One"), of("")), (None, None));
    }

    #[test]
    fn an_error_names_the_line_and_not_its_contents() {
        let good = line("a", "one", "read");
        for (bad, words) in [
            ("a canary read\n".to_owned(), "line 2: the second word"),
            ("a canary\n".to_owned(), "line 2: not NAME"),
            (line("a", "two", "canary"), "line 2: the third word"),
            (line("a/canary", "two", "read"), "line 2: the name"),
            (good.clone(), "line 2: the token is listed twice"),
            ("a canary read".to_owned(), "no line break"),
        ] {
            let why = parse(&format!("{good}{bad}")).unwrap_err();
            assert!(why.contains(words) && !why.contains("canary"), "{why}");
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn a_changed_file_is_read_again_and_one_that_does_not_work_changes_nothing() {
        let place = Place::new("again");
        let path = place.write(&line("a", "one", "read"));
        let tokens = Tokens::load(Some(&path)).unwrap();
        let is_known = |text: &str| tokens.find(text).is_some();
        tokens.look();
        assert_eq!(tokens.counts(), (0, 0), "nothing has changed");
        place.write(&line("a", "two", "read"));
        tokens.look();
        assert_eq!((is_known("one"), is_known("two"), tokens.counts()), (false, true, (1, 0)));
        place.write("half");
        tokens.look();
        tokens.look();
        assert_eq!((is_known("two"), tokens.counts()), (true, (1, 1)), "the same contents are tried once");
        fs::remove_file(&path).unwrap();
        tokens.look();
        tokens.look();
        assert_eq!((is_known("two"), tokens.counts()), (true, (1, 2)));
        place.write(&line("a", "three", "change"));
        tokens.look();
        assert_eq!((is_known("two"), is_known("three"), tokens.counts()), (false, true, (2, 2)));
        tokens.apply(tokens.read(None).unwrap());
        assert!(!tokens.are_required());
    }

    #[test]
    fn only_regular_files_of_a_reasonable_length_are_read() {
        let place = Place::new("odd");
        assert!(Tokens::load(Some(&place.0)).unwrap_err().0.contains("not a regular file"));
        let path = place.write(&" ".repeat(FILE_BYTES_MAX + 1));
        assert!(Tokens::load(Some(&path)).unwrap_err().0.contains("longer than"));
        let why = Tokens::load(Some(Path::new("/nowhere/tokens"))).unwrap_err().0;
        assert!(why.starts_with("control_tokens: /nowhere/tokens: "), "{why}");
    }
}
