//! Sends every WebSocket message back, as conformance suites expect (`--test-echo`, path `/echo`).
//!
//! Works piece by piece, so that a message of any size needs no memory. Text is checked as UTF-8 when it
//! arrives: the first byte that cannot become valid ends the connection (RFC 6455 section 8.1).

use crate::ws::{CloseCode, MessageKind, Sender};

/// The state of the echo: an incomplete character of text.
#[derive(Debug, Default)]
pub struct Echo {
    /// The first bytes of an incomplete character, at most three.
    cut: Vec<u8>,
}

impl Echo {
    /// Sends a piece of a message back.
    pub fn handle(
        &mut self,
        sender: &mut Sender,
        out: &mut Vec<u8>,
        kind: MessageKind,
        piece: &[u8],
        fin: bool,
    ) -> Result<(), CloseCode> {
        if kind == MessageKind::Text {
            self.check(piece, fin)?;
        }
        sender.data(out, kind, fin, piece.len(), |out| out.extend_from_slice(piece));
        Ok(())
    }

    fn check(&mut self, mut piece: &[u8], fin: bool) -> Result<(), CloseCode> {
        while let Some((first, rest)) = piece.split_first().filter(|_| !self.cut.is_empty()) {
            self.cut.push(*first);
            piece = rest;
            match std::str::from_utf8(&self.cut) {
                Ok(_) => self.cut.clear(),
                Err(error) if error.error_len().is_some() => return Err(CloseCode::INVALID_UTF8),
                Err(_) => {}
            }
        }
        if let Err(error) = std::str::from_utf8(piece) {
            if error.error_len().is_some() {
                return Err(CloseCode::INVALID_UTF8);
            }
            self.cut.extend_from_slice(&piece[error.valid_up_to()..]);
        }
        if fin && !self.cut.is_empty() { Err(CloseCode::INVALID_UTF8) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Role;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_in_pieces_is_checked_like_text_in_one_piece(
            bytes in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac)], 0..12),
            ],
            size in 1usize..4,
        ) {
            let (mut echo, mut sender, mut out) = (Echo::default(), Sender::new(Role::Server), Vec::new());
            let mut verdict = Ok(());
            for piece in bytes.chunks(size) {
                verdict = verdict.and_then(|()| echo.handle(&mut sender, &mut out, MessageKind::Text, piece, false));
            }
            let verdict = verdict.and_then(|()| echo.handle(&mut sender, &mut out, MessageKind::Text, b"", true));
            prop_assert_eq!(verdict.is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
