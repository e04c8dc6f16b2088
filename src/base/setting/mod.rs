//! Settings: how a room declares them, and how a setting is read and shown.
//!
//! A room writes each of its settings once, in a `settings!` block (`declare`): field, type, default, key,
//! kind with range, and help. The block generates the struct, its `Default` and its table
//! ([`Declared::SETTINGS`]). `config` combines the tables of all rooms.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | a setting of one room, and its description |
//! | `section` | the headings for settings |
//! | `kind` | the meaning of a text: bytes, a count, a duration, a choice |
//! | `value` | the types of a setting's field |
//! | `declare` | the macros |

mod declare;
mod kind;
mod section;
mod value;

pub(crate) use declare::{choice, settings};
pub use kind::{GIB, Kind, LONGEST_MS, SHORTEST_MS};
pub use section::Section;
pub use value::Value;

use std::fmt;

/// The prefix of environment variables.
pub const PREFIX: &str = "MILLSTREAM_";

/// An error in the settings. The text names the key and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unworkable(pub String);

impl fmt::Display for Unworkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unworkable {}

/// When a changed value of a setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// When the server starts.
    AtStart,
    /// Also when a running server reloads its settings.
    OnReload,
}

/// The description of a setting, independent of its value.
#[derive(Clone, Debug)]
pub struct About {
    /// The heading under which the setting is shown.
    pub section: Section,
    /// When a changed value takes effect.
    pub applies: Applies,
    /// The key in the file. With hyphens it is the flag; in capitals, after `MILLSTREAM_`, the environment
    /// variable.
    pub key: &'static str,
    /// The meaning of the text, and its range.
    pub kind: Kind,
    /// The help text.
    pub help: &'static str,
}

impl About {
    /// Returns the name of the flag, without leading hyphens.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// Returns the name of the environment variable.
    pub fn variable(&self) -> String {
        format!("{}{}", PREFIX, self.key.to_ascii_uppercase())
    }

    /// Formats the text of a value as TOML.
    pub fn toml(&self, text: String) -> String {
        if self.kind == Kind::Flag || text.parse::<u64>().is_ok() { text } else { format!("{text:?}") }
    }
}

/// A setting of a room with settings of the type `S`.
pub struct Setting<S> {
    /// The description of the setting.
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
    /// Sets the setting from text. The error does not name the key.
    pub fn set(&self, settings: &mut S, text: &str) -> Result<(), String> {
        (self.read)(settings, text.trim(), &self.about.kind)
    }

    /// Returns the value as text that [`Self::set`] accepts.
    pub fn get(&self, settings: &S) -> String {
        (self.show)(settings, &self.about.kind)
    }
}

/// Settings that a `settings!` block declares.
pub trait Declared: Sized + 'static {
    /// All settings, in the order in which they are shown.
    const SETTINGS: &'static [Setting<Self>];
}
