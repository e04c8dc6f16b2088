//! The meaning of a setting's text, and the parsing of numbers.

use std::ops::RangeInclusive;
use std::time::Duration;

/// 1 GiB in bytes.
pub const GIB: u64 = 1 << 30;
/// The shortest timeout, in milliseconds. With a shorter one, a shard would only check the time.
pub const SHORTEST_MS: u64 = 10;
/// The longest duration, in milliseconds: a year.
pub const LONGEST_MS: u64 = 366 * 86_400_000;

/// The meaning of a setting's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes: `4096`, `256KiB`, `8 MiB`.
    Bytes(RangeInclusive<u64>),
    /// A number without a unit.
    Count(RangeInclusive<u64>),
    /// A number of microseconds.
    Micros(RangeInclusive<u64>),
    /// A duration: `500ms`, `30s`, `5min`. A number without a unit means seconds. The range is in
    /// milliseconds.
    Duration(RangeInclusive<u64>),
    /// `true` or `false`.
    Flag,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// Text. The setting's help says which.
    Text,
}

impl Kind {
    /// Describes the accepted texts, for messages and help.
    pub fn wanted(&self) -> String {
        match self {
            Self::Flag => "true or false".into(),
            Self::Choice(choices) => choices.join(" or "),
            Self::Text => "text".into(),
            Self::Bytes(range) | Self::Count(range) | Self::Micros(range) | Self::Duration(range) => {
                let (least, most) = (self.show_number(*range.start()), self.show_number(*range.end()));
                if *range.end() == i64::MAX as u64 {
                    format!("at least {least}")
                } else {
                    format!("{least} to {most}")
                }
            }
        }
    }

    /// Returns the error for a text that does not match.
    pub fn refusal(&self, text: &str) -> String {
        format!("{text:?} is not {}", self.wanted())
    }

    /// Parses a number and checks its range. A duration is returned in milliseconds.
    pub fn parse_number(&self, text: &str) -> Result<u64, String> {
        let bad = |what: &str| format!("{text:?} is not {what}");
        let value = match self {
            Self::Bytes(_) => text
                .parse::<bytesize::ByteSize>()
                .map(|size| size.as_u64())
                .map_err(|_| bad("a number of bytes like 4096 or 256KiB"))?,
            Self::Duration(_) => {
                let parsed = match text.parse::<f64>() {
                    Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
                    Err(_) => humantime::parse_duration(text).ok(),
                };
                let millis = parsed.and_then(|duration| u64::try_from(duration.as_millis()).ok());
                millis.ok_or_else(|| bad("a duration like 500ms, 30s or 2.5 (seconds)"))?
            }
            _ => text.replace('_', "").parse().map_err(|_| bad("a whole number"))?,
        };
        match self {
            Self::Bytes(range) | Self::Count(range) | Self::Micros(range) | Self::Duration(range)
                if !range.contains(&value) =>
            {
                Err(self.out_of_range(text))
            }
            _ => Ok(value),
        }
    }

    /// Returns the error for a number out of range.
    pub(super) fn out_of_range(&self, text: &str) -> String {
        format!("{text} is not within {}", self.wanted())
    }

    /// Formats a number as text that [`Self::parse_number`] accepts.
    pub fn show_number(&self, value: u64) -> String {
        let unit = |scale: u64, name: &str| format!("{}{name}", value / scale);
        match self {
            Self::Bytes(_) => match value {
                0 => "0".into(),
                _ if value.is_multiple_of(GIB) => unit(GIB, "GiB"),
                _ if value.is_multiple_of(1 << 20) => unit(1 << 20, "MiB"),
                _ if value.is_multiple_of(1 << 10) => unit(1 << 10, "KiB"),
                _ => value.to_string(),
            },
            Self::Duration(_) if value.is_multiple_of(1000) => unit(1000, "s"),
            Self::Duration(_) => unit(1, "ms"),
            _ => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_by_kind_and_checked_against_the_range() {
        let bytes = Kind::Bytes(1..=GIB);
        assert_eq!(bytes.parse_number("3MiB"), Ok(3 << 20));
        assert_eq!(bytes.parse_number("2GiB").unwrap_err(), "2GiB is not within 1 to 1GiB");
        assert!(bytes.parse_number("lots").unwrap_err().contains("a number of bytes like"));
        let duration = Kind::Duration(0..=LONGEST_MS);
        assert_eq!(duration.parse_number("0.5"), Ok(500));
        assert_eq!(duration.parse_number("2min"), Ok(120_000));
        assert!(duration.parse_number("soon").unwrap_err().contains("a duration like"));
        assert_eq!(Kind::Count(1..=2000).parse_number("1_000"), Ok(1000));
        assert_eq!(Kind::Micros(0..=10).parse_number("11").unwrap_err(), "11 is not within 0 to 10");
        assert_eq!(Kind::Count(0..=i64::MAX as u64).wanted(), "at least 0");
    }

    #[test]
    fn numbers_are_shown_in_the_largest_unit_that_divides_them() {
        let bytes = Kind::Bytes(0..=u64::MAX);
        for (value, text) in [(0, "0"), (1000, "1000"), (2048, "2KiB"), (3 << 20, "3MiB"), (GIB, "1GiB")] {
            assert_eq!(bytes.show_number(value), text);
        }
        let duration = Kind::Duration(0..=u64::MAX);
        assert_eq!((duration.show_number(2000), duration.show_number(2500)), ("2s".into(), "2500ms".into()));
    }
}
