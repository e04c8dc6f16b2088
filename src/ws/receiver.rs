//! The receiving half of a WebSocket: takes bytes, returns pieces of frames (RFC 6455 sections 5 and 7).
//!
//! Buffers only an incomplete header and the payload of a control frame. Data frames are passed on as they
//! arrive, unmasked in place, because a message of the streaming protocol can stay open for hours.

use std::ops::Range;

use super::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode};
use super::{CloseCode, Role, mask};
use crate::base::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// The kind of a WebSocket message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A text message (opcode 1).
    Text,
    /// A binary message (opcode 2).
    Binary,
}

/// The complete payload of a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPayload {
    length: u8,
    bytes: [u8; CONTROL_PAYLOAD_BYTES_MAX],
}

impl ControlPayload {
    /// Returns the payload's bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The next item in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// All input is consumed; more bytes are needed.
    More,
    /// A piece of a data frame.
    Data {
        /// The kind of the message.
        kind: MessageKind,
        /// The position of the unmasked payload in the input. May be empty.
        payload: Range<usize>,
        /// Whether the piece ends the message.
        fin: bool,
    },
    /// A complete ping. The next call starts at `used`.
    Ping {
        /// The number of bytes taken from the input.
        used: usize,
        /// The payload to send back.
        payload: Box<ControlPayload>,
    },
    /// A complete pong. The next call starts at `used`.
    Pong {
        /// The number of bytes taken from the input.
        used: usize,
    },
    /// A valid close frame. Ignore all bytes after it.
    Close {
        /// `None` if the frame was empty.
        code: Option<CloseCode>,
    },
}

/// The frame whose payload is being received.
#[derive(Clone, Copy, Debug)]
struct Current {
    opcode: Opcode,
    /// The kind of the message; unused for control frames.
    kind: MessageKind,
    fin: bool,
    mask: Option<[u8; 4]>,
    phase: u8,
    remaining: u64,
    /// Whether the whole payload and its end have been passed on.
    told: bool,
}

/// The receiving half of one connection: the frame in progress, and the kind of the open message.
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    /// The bytes of an incomplete header.
    header: [u8; HEADER_BYTES_MAX],
    header_length: u8,
    current: Option<Current>,
    /// The kind of the message that a continuation frame continues.
    open: Option<MessageKind>,
    /// The number of bytes at the start of the next input that an earlier call has already unmasked.
    unmasked: usize,
    control: Option<Box<ControlPayload>>,
}

impl Receiver {
    /// Creates a receiver for our side of the connection.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            header: [0; HEADER_BYTES_MAX],
            header_length: 0,
            current: None,
            open: None,
            unmasked: 0,
            control: None,
        }
    }

    /// Returns the next item in `input`. After `Data` the caller continues behind the payload, or calls
    /// [`Self::leave`] for the part that it will pass again.
    #[inline]
    pub fn handle(&mut self, input: &mut [u8]) -> Result<Input, CloseCode> {
        let mut used = 0;
        if self.current.is_none_or(|frame| frame.told) {
            match self.handle_header(input)? {
                Some(header_bytes) => used = header_bytes,
                None => return Ok(Input::More),
            }
        }
        let Some(frame) = &mut self.current else { return Ok(Input::More) };
        let available = &mut input[used..];
        let length = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(available.len());
        if let Some(key) = frame.mask {
            let done = self.unmasked.min(length);
            frame.phase = mask::apply(&mut available[done..length], key, frame.phase);
            self.unmasked -= done;
        }
        frame.remaining -= length as u64;
        frame.told = frame.remaining == 0;
        let Current { opcode, kind, fin, told: whole, .. } = *frame;
        let payload = used..used + length;
        if opcode.is_control() {
            return self.handle_control(opcode, &input[payload.clone()], whole, payload.end);
        }
        if whole && fin {
            self.open = None;
        }
        // Report nothing for a header whose payload has not started.
        if payload.is_empty() && !whole {
            Ok(Input::More)
        } else {
            Ok(Input::Data { kind, payload, fin: fin && whole })
        }
    }

    /// Puts back the last `bytes` of the payload just returned. They must be the start of the next input.
    pub fn leave(&mut self, bytes: usize) {
        if let Some(frame) = self.current.as_mut().filter(|_| bytes > 0) {
            frame.remaining += bytes as u64;
            frame.told = false;
            self.open = Some(frame.kind);
            self.unmasked = bytes;
        }
    }

    /// Reads a header from `input`, completing one that was cut earlier. Returns the number of bytes taken
    /// from `input`, or `None` if all were taken and more are needed.
    #[inline]
    fn handle_header(&mut self, input: &[u8]) -> Result<Option<usize>, CloseCode> {
        let (header, used) = if self.header_length == 0 {
            match FrameHeader::parse(input)? {
                Some(parsed) => parsed,
                None => {
                    self.header[..input.len()].copy_from_slice(input);
                    self.header_length = input.len() as u8;
                    return Ok(None);
                }
            }
        } else {
            let had = usize::from(self.header_length);
            let fresh = input.len().min(HEADER_BYTES_MAX - had);
            self.header[had..had + fresh].copy_from_slice(&input[..fresh]);
            match FrameHeader::parse(&self.header[..had + fresh])? {
                Some((header, length)) => {
                    self.header_length = 0;
                    (header, length - had)
                }
                None => {
                    self.header_length = (had + fresh) as u8;
                    return Ok(None);
                }
            }
        };
        if header.mask.is_some() != (self.role == Role::Server) {
            return Err(CloseCode::PROTOCOL);
        }
        let kind = match (header.opcode, self.open) {
            (Opcode::Text, None) => MessageKind::Text,
            (Opcode::Binary, None) => MessageKind::Binary,
            (Opcode::Continuation, Some(kind)) => kind,
            (Opcode::Text | Opcode::Binary, Some(_)) | (Opcode::Continuation, None) => {
                return Err(CloseCode::PROTOCOL);
            }
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => MessageKind::Binary,
        };
        if !header.opcode.is_control() {
            self.open = Some(kind);
        }
        self.unmasked = 0;
        self.current = Some(Current {
            opcode: header.opcode,
            kind,
            fin: header.fin,
            mask: header.mask,
            phase: 0,
            remaining: header.length,
            told: false,
        });
        Ok(Some(used))
    }

    /// Collects the payload of a control frame. Its length was checked with the header: at most 125 bytes.
    fn handle_control(
        &mut self,
        opcode: Opcode,
        piece: &[u8],
        whole: bool,
        used: usize,
    ) -> Result<Input, CloseCode> {
        let control = self.control.get_or_insert_with(|| {
            Box::new(ControlPayload { length: 0, bytes: [0; CONTROL_PAYLOAD_BYTES_MAX] })
        });
        let had = usize::from(control.length);
        control.bytes[had..had + piece.len()].copy_from_slice(piece);
        control.length += piece.len() as u8;
        if !whole {
            return Ok(Input::More);
        }
        let Some(payload) = self.control.take() else { return Ok(Input::Pong { used }) };
        match opcode {
            Opcode::Ping => Ok(Input::Ping { used, payload }),
            Opcode::Close => Ok(Input::Close { code: CloseCode::parse(payload.as_slice())? }),
            _ => Ok(Input::Pong { used }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Seen {
        Data(MessageKind, Vec<u8>, bool),
        Ping(Vec<u8>),
        Pong,
        Close(Option<CloseCode>),
        Broken(CloseCode),
    }

    /// Feeds `bytes` in pieces that end at `cuts`. If `reluctant`, every second piece of payload is taken
    /// only in part. Joins the pieces of a frame, so that the result does not depend on the cuts.
    fn receive(role: Role, bytes: &[u8], cuts: &[usize], reluctant: bool) -> Vec<Seen> {
        let mut receiver = Receiver::new(role);
        let mut seen: Vec<Seen> = Vec::new();
        let mut open: Option<(MessageKind, Vec<u8>)> = None;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(bytes.len());
        let mut from = 0;
        let mut turn = 0;
        for end in ends {
            let mut input = bytes[from..end].to_vec();
            from = end;
            let mut rest = &mut input[..];
            loop {
                turn += 1;
                match receiver.handle(rest) {
                    Err(code) => {
                        seen.push(Seen::Broken(code));
                        return seen;
                    }
                    Ok(Input::More) => break,
                    Ok(Input::Data { kind, payload, fin }) => {
                        let leave = if reluctant && turn % 2 == 0 { payload.len() / 2 } else { 0 };
                        let taken = payload.start..payload.end - leave;
                        receiver.leave(leave);
                        let all = &mut open.get_or_insert((kind, Vec::new())).1;
                        all.extend_from_slice(&rest[taken.clone()]);
                        if fin && leave == 0 {
                            let (kind, all) = open.take().unwrap();
                            seen.push(Seen::Data(kind, all, true));
                        }
                        rest = &mut rest[taken.end..];
                    }
                    Ok(Input::Ping { used, payload }) => {
                        seen.push(Seen::Ping(payload.as_slice().to_vec()));
                        rest = &mut rest[used..];
                    }
                    Ok(Input::Pong { used }) => {
                        seen.push(Seen::Pong);
                        rest = &mut rest[used..];
                    }
                    Ok(Input::Close { code }) => {
                        seen.push(Seen::Close(code));
                        return seen;
                    }
                }
            }
        }
        if let Some((kind, all)) = open {
            seen.push(Seen::Data(kind, all, false));
        }
        seen
    }

    fn frame(fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FrameHeader { fin, opcode, mask, length: payload.len() as u64 }.write(&mut out);
        let at = out.len();
        out.extend_from_slice(payload);
        if let Some(key) = mask {
            mask::apply(&mut out[at..], key, 0);
        }
        out
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let opcode = prop_oneof![
            6 => Just(Opcode::Continuation),
            2 => Just(Opcode::Binary),
            1 => Just(Opcode::Text),
            2 => Just(Opcode::Ping),
            1 => Just(Opcode::Pong),
        ];
        (any::<bool>(), opcode, any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
            |(fin, opcode, key, mut payload)| {
                if opcode.is_control() {
                    payload.truncate(CONTROL_PAYLOAD_BYTES_MAX);
                }
                frame(fin || opcode.is_control(), opcode, Some(key), &payload)
            },
        )
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_the_bytes_are_cut(
            frames in proptest::collection::vec(any_frame(), 1..12),
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
            reluctant in any::<bool>(),
        ) {
            let mut bytes = frame(false, Opcode::Binary, Some([1, 2, 3, 4]), b"start");
            bytes.extend(frames.concat());
            let whole = receive(Role::Server, &bytes, &[], false);
            prop_assert_eq!(&receive(Role::Server, &bytes, &cuts, reluctant), &whole);
            let every: Vec<usize> = (0..bytes.len()).collect();
            prop_assert_eq!(&receive(Role::Server, &bytes, &every, reluctant), &whole);
        }

        #[test]
        fn messages_are_read_as_in_tungstenite(
            messages in proptest::collection::vec(
                proptest::collection::vec((any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 0..100)), 1..5), 1..5),
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let mut bytes = Vec::new();
            for frames in &messages {
                for (index, (key, payload)) in frames.iter().enumerate() {
                    let opcode = if index == 0 { Opcode::Binary } else { Opcode::Continuation };
                    bytes.extend(frame(index + 1 == frames.len(), opcode, Some(*key), payload));
                }
            }
            let ours: Vec<Vec<u8>> = receive(Role::Server, &bytes, &cuts, true)
                .into_iter()
                .map(|seen| match seen { Seen::Data(_, all, true) => all, other => panic!("{other:?}") })
                .collect();
            let mut oracle = tungstenite::WebSocket::from_raw_socket(
                std::io::Cursor::new(bytes), tungstenite::protocol::Role::Server, None);
            for all in ours {
                prop_assert_eq!(oracle.read().unwrap().into_data().to_vec(), all);
            }
        }
    }

    #[test]
    fn protocol_violations_are_answered_with_1002() {
        let key = Some([9, 8, 7, 6]);
        let cases: [(&str, Vec<u8>); 10] = [
            ("unmasked client frame", frame(true, Opcode::Binary, None, b"x")),
            ("reserved bit", vec![0xc2, 0x80]),
            ("reserved opcode", vec![0x83, 0x80]),
            ("fragmented ping", vec![0x09, 0x80]),
            ("ping of 126 bytes", vec![0x89, 0xfe]),
            ("continuation of nothing", frame(true, Opcode::Continuation, key, b"x")),
            (
                "a new message inside another",
                [frame(false, Opcode::Binary, key, b"x"), frame(true, Opcode::Text, key, b"y")].concat(),
            ),
            ("a non-minimal length", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0]),
            ("a length with its top bit set", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("a close of one byte", frame(true, Opcode::Close, key, b"x")),
        ];
        for (name, bytes) in cases {
            let seen = receive(Role::Server, &bytes, &[], false);
            assert_eq!(seen.last(), Some(&Seen::Broken(CloseCode::PROTOCOL)), "{name}");
        }
        let masked = frame(true, Opcode::Binary, key, b"x");
        assert_eq!(receive(Role::Client, &masked, &[], false), [Seen::Broken(CloseCode::PROTOCOL)]);
    }

    #[test]
    fn close_codes_and_reasons_are_checked() {
        let close = |payload: &[u8]| {
            receive(Role::Server, &frame(true, Opcode::Close, Some([1, 2, 3, 4]), payload), &[1, 3], false)
        };
        assert_eq!(close(b""), [Seen::Close(None)]);
        for code in [1000u16, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
            let payload = [&code.to_be_bytes()[..], b"why"].concat();
            assert_eq!(close(&payload), [Seen::Close(Some(CloseCode(code)))], "{code}");
        }
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(close(&code.to_be_bytes()), [Seen::Broken(CloseCode::PROTOCOL)], "{code}");
        }
        assert_eq!(close(b"\x03\xe8\xff"), [Seen::Broken(CloseCode::INVALID_UTF8)]);
    }
}
