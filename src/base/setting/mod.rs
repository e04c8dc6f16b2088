//! Settings: how a room declares its own, and how one of them is read and shown.
//!
//! A room writes each of its settings once, in a `settings!` block (`declare`): field, type, default, key, kind, range and
//! help. The struct, its `Default` and its table ([`Declared::SETTINGS`]) come from there. `config` joins the tables.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | a setting of one room, and what is said of it |
//! | `section` | the headings that settings are shown under |
//! | `kind` | what a text means: bytes, a count, a duration, a choice |
//! | `value` | the types that a field may have |
//! | `declare` | the macros |

mod declare;
mod kind;
mod section;
mod value;

pub(crate) use declare::{choice, settings};
pub use kind::{GIB, Kind, LONGEST_MS, SHORTEST_MS};
pub use section::Section;
pub use value::{Value, parse};

use std::fmt;

/// What the environment's variables begin with.
pub const PREFIX: &str = "MILLSTREAM_";

/// Settings that cannot work; the text names the key and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unworkable(pub String);

impl fmt::Display for Unworkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unworkable {}

/// What is said of a setting, whatever its value.
#[derive(Clone, Debug)]
pub struct About {
    /// The heading that it is shown under.
    pub section: Section,
    /// As in the file; with hyphens the flag, in capitals behind `MILLSTREAM_` the variable.
    pub key: &'static str,
    /// What its text means, and its range.
    pub kind: Kind,
    /// What it is for.
    pub help: &'static str,
}

impl About {
    /// The flag.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The environment's variable.
    pub fn variable(&self) -> String {
        format!("{}{}", PREFIX, self.key.to_ascii_uppercase())
    }

    /// A value's text as TOML.
    pub fn toml(&self, text: String) -> String {
        if self.kind == Kind::Flag || text.parse::<u64>().is_ok() { text } else { format!("{text:?}") }
    }
}

/// One setting of a room whose settings are an `S`.
pub struct Setting<S> {
    /// What is said of it.
    pub about: About,
    #[doc(hidden)]
    pub show: fn(&S, &Kind) -> String,
    #[doc(hidden)]
    pub read: fn(&mut S, &str, &Kind) -> Result<(), String>,
}

impl<S> fmt::Debug for Setting<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about.key)
    }
}

impl<S> Setting<S> {
    /// Sets it from text; the error says what is wrong, without the key.
    pub fn set(&self, settings: &mut S, text: &str) -> Result<(), String> {
        (self.read)(settings, text.trim(), &self.about.kind)
    }

    /// Its value as text that [`Self::set`] takes.
    pub fn get(&self, settings: &S) -> String {
        (self.show)(settings, &self.about.kind)
    }
}

/// Settings that a `settings!` block declares.
pub trait Declared: Sized + 'static {
    /// All of them, in the order in which they are shown.
    const SETTINGS: &'static [Setting<Self>];
}
