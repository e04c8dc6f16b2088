//! Whole WebSocket messages from their pieces.

use super::super::error::ClientError;

/// The longest accepted message of the server, in bytes. The API limits a post to 262,144 characters, an answer
/// to 20 messages, and each answer repeats its request.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A WebSocket message of which not all pieces have arrived.
#[derive(Debug, Default)]
pub struct Whole(Vec<u8>);

impl Whole {
    /// Handles a piece. Calls `each` with a message once it is whole.
    pub fn handle(
        &mut self,
        piece: &[u8],
        fin: bool,
        each: impl FnOnce(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        if fin && self.0.is_empty() {
            return each(piece);
        }
        if self.0.len() + piece.len() > MESSAGE_BYTES_MAX {
            let how = format!("a message is longer than {} MiB", MESSAGE_BYTES_MAX >> 20);
            return Err(ClientError::Broken(how));
        }
        self.0.extend_from_slice(piece);
        if !fin {
            return Ok(());
        }
        let handled = each(&self.0);
        self.0.clear();
        handled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_and_an_endless_message_is_refused() {
        let mut whole = Whole::default();
        let mut seen = Vec::new();
        for (piece, fin) in [("one", true), ("t", false), ("w", false), ("o", true), ("", true)] {
            let each = |message: &[u8]| {
                seen.push(String::from_utf8(message.to_vec()).unwrap());
                Ok(())
            };
            whole.handle(piece.as_bytes(), fin, each).unwrap();
        }
        assert_eq!(seen, ["one", "two", ""]);
        let piece = vec![b'.'; MESSAGE_BYTES_MAX];
        whole.handle(&piece, false, |_| Ok(())).unwrap();
        assert!(matches!(whole.handle(b".", true, |_| Ok(())), Err(ClientError::Broken(_))));
    }
}
