//! The types of a setting's field. A type that only one room uses implements [`Value`] in that room.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Kind;

/// A value that is read from text and shown as text.
pub trait Value: Sized {
    /// Reads a text without surrounding space. The error does not name the key.
    fn read(text: &str, kind: &Kind) -> Result<Self, String>;

    /// Returns the value as text that [`Self::read`] accepts.
    fn show(&self, kind: &Kind) -> String;
}

macro_rules! whole_numbers {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn read(text: &str, kind: &Kind) -> Result<Self, String> {
                Self::try_from(kind.parse_number(text)?).map_err(|_| kind.out_of_range(text))
            }

            fn show(&self, kind: &Kind) -> String {
                kind.show_number(*self as u64)
            }
        })+
    };
}

whole_numbers!(u16, u32, u64, usize);

impl Value for Duration {
    fn read(text: &str, kind: &Kind) -> Result<Self, String> {
        let number = kind.parse_number(text)?;
        Ok(if matches!(kind, Kind::Micros(_)) {
            Self::from_micros(number)
        } else {
            Self::from_millis(number)
        })
    }

    fn show(&self, kind: &Kind) -> String {
        let number = if matches!(kind, Kind::Micros(_)) { self.as_micros() } else { self.as_millis() };
        kind.show_number(number as u64)
    }
}

impl Value for bool {
    fn read(text: &str, kind: &Kind) -> Result<Self, String> {
        text.parse().map_err(|_| kind.refusal(text))
    }

    fn show(&self, _: &Kind) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(text: &str, kind: &Kind) -> Result<Self, String> {
        match kind {
            Kind::Choice(choices) if !choices.contains(&text) => Err(kind.refusal(text)),
            _ => Ok(text.to_owned()),
        }
    }

    fn show(&self, _: &Kind) -> String {
        self.clone()
    }
}

/// A directory. Must not be empty.
impl Value for PathBuf {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        if text.is_empty() { Err("empty; name a directory".into()) } else { Ok(text.into()) }
    }

    fn show(&self, _: &Kind) -> String {
        self.display().to_string()
    }
}

/// An optional file. Empty text means none.
impl Value for Option<PathBuf> {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn show(&self, _: &Kind) -> String {
        self.as_ref().map_or(String::new(), |path| path.display().to_string())
    }
}

/// A map, written as `key=value` pairs with `;` between them.
impl Value for BTreeMap<String, String> {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        let pairs = text.split(';').map(str::trim).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (key, value) = pair.split_once('=').ok_or("every entry must be key=value")?;
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            })
            .collect()
    }

    fn show(&self, _: &Kind) -> String {
        self.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
    }
}
