//! Histograms as text: HdrHistogram's V2 format, compressed and in base64, as in its log files and tools.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

/// Encodes a histogram as text. Returns an empty string on an error, which does not happen for our
/// histograms.
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    match V2DeflateSerializer::new().serialize(histogram, &mut bytes) {
        Ok(_) => STANDARD.encode(bytes),
        Err(_) => String::new(),
    }
}

/// Decodes the text of a histogram.
pub fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))?;
    Deserializer::new()
        .deserialize(&mut Cursor::new(bytes))
        .map_err(|error| format!("not a histogram in HdrHistogram's V2 format: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;

    #[test]
    fn histograms_survive_encoding_and_garbage_is_refused() {
        let mut one = histogram();
        [1, 1_000, 123_456_789].into_iter().for_each(|value| one.saturating_record(value));
        assert_eq!(decode(&encode(&one)).unwrap(), one);
        assert!(decode("no text of ours").unwrap_err().contains("base64"));
        assert!(decode("AAAA").unwrap_err().contains("V2"));
    }
}
