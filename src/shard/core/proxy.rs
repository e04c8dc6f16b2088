//! The PROXY header (versions 1 and 2) with which a proxy names the client of a connection. Bytes in, the
//! client's address out.
//!
//! What follows the header belongs to HTTP or TLS. So [`ProxyHeader::wanted`] never asks for a byte that may be
//! behind the header, and nothing has to be handed back.
//!
//! This file finds the end of a header; the crate `proxy-header` parses it.

use core::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol};

/// The longest header of version 1, in bytes.
pub const V1_BYTES_MAX: usize = 107;
/// The longest accepted header of version 2, in bytes. The longest that the specification expects without
/// extensions has 232 bytes.
pub const V2_BYTES_MAX: usize = 536;

const V1_PREFIX: &[u8] = b"PROXY ";
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN";
const V1_END: &[u8] = b"\r\n";
/// The separators between the six words of a version 1 header with addresses.
const V1_SPACES: usize = 5;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of a version 2 header: signature, command, family, and the length of the rest.
const V2_FIXED: usize = 16;
/// The commands of version 2: the proxy's own connection, such as a health check, and a client's.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

const INVALID: &str = "its PROXY header is invalid";

/// The shortest possible header: `PROXY UNKNOWN` and its line end.
const SHORTEST: usize = V1_UNKNOWN.len() + V1_END.len();

/// A header that is being received.
#[derive(Debug, Default)]
pub struct ProxyHeader {
    bytes: Vec<u8>,
}

/// What a complete header says about the connection's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The client's address.
    Client(SocketAddr),
    /// No address, or none of a TCP client. The peer keeps the address of its socket.
    Nothing,
}

impl ProxyHeader {
    /// Returns how many bytes certainly belong to the rest of the header; at least 1.
    pub fn wanted(&self) -> usize {
        let have = self.bytes.len();
        if have < SHORTEST {
            return SHORTEST - have;
        }
        if let Some(whole) = self.v2_length() {
            return whole.saturating_sub(have).max(1);
        }
        if self.bytes.starts_with(V2_SIGNATURE) || self.bytes.ends_with(b"\r") {
            return 1;
        }
        // Each missing word has at least one character, and a space before it.
        let spaces = self.bytes.iter().filter(|byte| **byte == b' ').count();
        let missing = if self.bytes.starts_with(V1_UNKNOWN) { 0 } else { V1_SPACES.saturating_sub(spaces) };
        2 * missing + V1_END.len()
    }

    /// Handles bytes of the header, at most as many as [`Self::wanted`]. Returns `None` if the header is
    /// incomplete. The error says why the bytes are no valid header.
    pub fn handle(&mut self, input: &[u8]) -> Result<Option<Announced>, &'static str> {
        self.bytes.extend_from_slice(input);
        if begins(&self.bytes, V2_SIGNATURE) { self.handle_v2() } else { self.handle_v1() }
    }

    fn handle_v1(&self) -> Result<Option<Announced>, &'static str> {
        if !begins(&self.bytes, V1_PREFIX) {
            return Err("it sent no PROXY header");
        }
        let end = self.bytes.iter().position(|byte| *byte == b'\r').unwrap_or(self.bytes.len());
        if !V1_END.starts_with(&self.bytes[end..]) {
            return Err(INVALID);
        }
        let Some(line) = self.bytes.strip_suffix(V1_END) else {
            // The next bytes can be the line end at best.
            let missing = if self.bytes.ends_with(b"\r") { 1 } else { V1_END.len() };
            return if self.bytes.len() + missing > V1_BYTES_MAX {
                Err("its PROXY header of version 1 is longer than 107 bytes")
            } else {
                Ok(None)
            };
        };
        if line.starts_with(V1_UNKNOWN) {
            return Ok(Some(Announced::Nothing));
        }
        self.parse()
    }

    fn handle_v2(&self) -> Result<Option<Announced>, &'static str> {
        if self.bytes.get(V2_SIGNATURE.len()).is_some_and(|command| ![V2_LOCAL, V2_PROXY].contains(command)) {
            return Err("its PROXY header has an unknown version or command");
        }
        let Some(whole) = self.v2_length() else { return Ok(None) };
        if whole > V2_BYTES_MAX {
            return Err("its PROXY header of version 2 is longer than 536 bytes");
        }
        if self.bytes.len() < whole {
            return Ok(None);
        }
        // The rest of such a header has no meaning, and may be anything.
        if self.bytes[V2_SIGNATURE.len()] == V2_LOCAL {
            return Ok(Some(Announced::Nothing));
        }
        self.parse()
    }

    /// Returns the length of the whole header, if it is of version 2 and its fixed part is complete.
    fn v2_length(&self) -> Option<usize> {
        let fixed: &[u8; V2_FIXED] = self.bytes.first_chunk()?;
        let rest = u16::from_be_bytes([fixed[V2_FIXED - 2], fixed[V2_FIXED - 1]]);
        fixed.starts_with(V2_SIGNATURE).then_some(V2_FIXED + usize::from(rest))
    }

    /// Parses the bytes, which are a whole header.
    fn parse(&self) -> Result<Option<Announced>, &'static str> {
        let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
        match proxy_header::ProxyHeader::parse(&self.bytes, config) {
            Ok((header, used)) if used == self.bytes.len() => Ok(Some(match header.proxied_address() {
                Some(address) if address.protocol == Protocol::Stream => Announced::Client(address.source),
                _ => Announced::Nothing,
            })),
            _ => Err(INVALID),
        }
    }
}

/// Returns whether `bytes` begin with `prefix`, or are its beginning.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header from a stream in pieces of at most `piece` bytes. Returns the result, and the bytes
    /// behind the header. `None` if the stream ends within the header.
    fn read(stream: &[u8], piece: usize) -> Option<(Result<Announced, &'static str>, &[u8])> {
        let (mut header, mut rest) = (ProxyHeader::default(), stream);
        loop {
            let count = header.wanted().min(piece).min(rest.len());
            if count == 0 {
                return None;
            }
            let (now, later) = rest.split_at(count);
            rest = later;
            match header.handle(now) {
                Ok(None) => {}
                Ok(Some(announced)) => return Some((Ok(announced), rest)),
                Err(why) => return Some((Err(why), rest)),
            }
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    fn client(text: &str) -> Announced {
        Announced::Client(text.parse().unwrap())
    }

    /// Reads the header with every size of pieces, and each time finds what follows it.
    fn announced(header: &[u8]) -> Announced {
        let behind = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let stream = [header, behind].concat();
        let results: Vec<_> = (1..=stream.len()).map(|piece| read(&stream, piece)).collect();
        for result in &results {
            let (announced, rest) = result.unwrap_or_else(|| panic!("incomplete: {header:02x?}"));
            assert_eq!(rest, behind, "{announced:?} of {header:02x?}");
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{header:02x?}");
        for cut in 0..header.len() {
            assert_eq!(read(&header[..cut], usize::MAX), None, "a cut header is incomplete");
        }
        results[0].unwrap().0.unwrap_or_else(|why| panic!("{why}: {header:02x?}"))
    }

    #[test]
    fn headers_of_version_1_name_the_client() {
        let client_of = |text: &str| announced(text.as_bytes());
        assert_eq!(client_of("PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n"), client("192.0.2.1:4660"));
        assert_eq!(client_of("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n"), client("1.1.1.1:1"));
        assert_eq!(client_of("PROXY TCP6 2001:db8::1 :: 65535 0\r\n"), client("[2001:db8::1]:65535"));
        let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(
            client_of(&format!("PROXY TCP6 {full} {full} 65535 65535\r\n")),
            client(&format!("[{full}]:65535"))
        );
        assert_eq!(client_of("PROXY UNKNOWN\r\n"), Announced::Nothing);
        let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
        assert_eq!(longest.len(), V1_BYTES_MAX);
        assert_eq!(client_of(&longest), Announced::Nothing);
    }

    #[test]
    fn headers_of_version_2_name_the_client() {
        assert_eq!(announced(&v2(V2_PROXY, 0x11, &V4)), client("192.0.2.1:4660"));
        let v6 = [&[0; 15][..], &[1], &[0; 16], &[0, 7, 0, 8]].concat();
        assert_eq!(announced(&v2(V2_PROXY, 0x21, &v6)), client("[::1]:7"));
        let longest = [&V4[..], &[4, 1, 0xf9], &[0; 505]].concat();
        assert_eq!(v2(V2_PROXY, 0x11, &longest).len(), V2_BYTES_MAX);
        assert_eq!(announced(&v2(V2_PROXY, 0x11, &longest)), client("192.0.2.1:4660"), "TLVs are skipped");
        let broken = [&V4[..], &[4, 0xff, 0xff]].concat();
        assert_eq!(announced(&v2(V2_PROXY, 0x11, &broken)), client("192.0.2.1:4660"), "TLVs are not parsed");
    }

    #[test]
    fn headers_without_a_tcp_client_announce_nothing() {
        for (command, family, rest) in [
            (V2_LOCAL, 0x00, &b""[..]),
            (V2_LOCAL, 0x11, b""),
            (V2_LOCAL, 0xff, b"anything"),
            (V2_PROXY, 0x00, b""),
            (V2_PROXY, 0x00, b"\x04\0\0"),
            (V2_PROXY, 0x12, &V4),
            (V2_PROXY, 0x31, &[0; 216]),
        ] {
            assert_eq!(announced(&v2(command, family, rest)), Announced::Nothing, "{command:x} {family:x}");
        }
    }

    #[test]
    fn anything_else_is_refused_as_soon_as_it_is_known() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
        let hostile_length = [V2_SIGNATURE, &[V2_PROXY, 0x11, 0xff, 0xff]].concat();
        let one_too_long = [&v2(V2_PROXY, 0, &[0; 521])[..V2_FIXED]].concat();
        let cases: [(&[u8], &str, usize); 15] = [
            (b"GET / HTTP/1.1\r\n\r\n", "no PROXY header", 1),
            (b"\x16\x03\x01\x02\x00\x01\x00", "no PROXY header", 1),
            (b"\r\n\r\n\0\r\nQUIT\rx", "no PROXY header", 12),
            (b"PROXY\tTCP4", "no PROXY header", 6),
            (b"proxy TCP4", "no PROXY header", 1),
            (b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", "invalid", 32),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 70000\r\n", "invalid", 36),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", "invalid", 24),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", "invalid", 30),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", "invalid", 34),
            (long.as_bytes(), "longer than 107", 106),
            (&hostile_length, "longer than 536", 16),
            (&one_too_long, "longer than 536", 16),
            (&[V2_SIGNATURE, b"\x11\x11\0\x0c"].concat(), "version or command", 13),
            (&v2(V2_PROXY, 0x11, &V4[..11]), "invalid", 27),
        ];
        for (stream, words, after) in cases {
            let (result, rest) = read(stream, 1).unwrap_or_else(|| panic!("accepted: {stream:02x?}"));
            let why = result.unwrap_err();
            assert!(why.contains(words), "{why}: {stream:02x?}");
            assert_eq!(stream.len() - rest.len(), after, "{stream:02x?}");
            assert!(read(stream, usize::MAX).is_none_or(|(result, _)| result.is_err()), "{stream:02x?}");
        }
    }
}
