//! Output for people: text from others without control characters, colours if wanted, lines on standard
//! error.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};

/// Returns whether a character of untrusted text could move the cursor, change colours or reorder the text
/// around it. A tab is harmless.
fn is_unsafe(char: char) -> bool {
    let reorders = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reorders || (char.is_control() && char != '\t')
}

/// Returns untrusted text on one line and without effect on a terminal. For example, an escape character
/// becomes `\u{1b}`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_unsafe(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    Cow::Owned(shown)
}

/// Writes bytes for a terminal: text as by [`escaped`], invalid UTF-8 as `\xff`.
pub fn write_escaped(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        out.write_all(escaped(chunk.valid()).as_bytes())?;
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Returns whether the environment asks for no colours: `NO_COLOR` is set and not empty, or the terminal is
/// dumb.
fn refuses_colours(no_color: Option<&str>, term: Option<&str>) -> bool {
    no_color.is_some_and(|value| !value.is_empty()) || term == Some("dumb")
}

/// Returns whether output on standard error may be coloured.
pub fn has_colours() -> bool {
    let read = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    io::stderr().is_terminal() && !refuses_colours(read("NO_COLOR").as_deref(), read("TERM").as_deref())
}

/// Returns whether a progress line on standard error can be overwritten.
pub fn has_progress() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns the sequence that erases a progress line; empty if progress lines are not possible.
pub fn line_start() -> &'static str {
    if has_progress() { "\r\x1b[K" } else { "" }
}

/// Writes a line to standard error. Ignores errors: if standard error is closed, nobody can read the line.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_has_no_effect_on_a_terminal() {
        assert_eq!(escaped("a queue, ümlaut\tand 日本"), "a queue, ümlaut\tand 日本");
        assert_eq!(escaped("\x1b[2Jgone\r\n\u{9b}31m\x07"), "\\u{1b}[2Jgone\\r\\n\\u{9b}31m\\u{7}");
        assert_eq!(escaped("\u{202e}txt.exe"), "\\u{202e}txt.exe");
        let mut out = Vec::new();
        write_escaped(b"\x1b]0;title\x07 \xff\xfe \xc3\xbc\n", &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\\u{1b}]0;title\\u{7} \\xff\\xfe ü\\n");
    }

    #[test]
    fn no_color_and_a_dumb_terminal_switch_colours_off() {
        assert!(refuses_colours(Some("1"), Some("xterm")));
        assert!(refuses_colours(None, Some("dumb")));
        assert!(!refuses_colours(Some(""), Some("xterm")), "an empty NO_COLOR has no effect");
        assert!(!refuses_colours(None, None));
    }
}
