//! Histograms as text: HdrHistogram's V2 format, compressed, in base64, as its log files and its tools have it.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

/// The text of a histogram; empty where it cannot be written, which no histogram of ours is.
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    match V2DeflateSerializer::new().serialize(histogram, &mut bytes) {
        Ok(_) => STANDARD.encode(bytes),
        Err(_) => String::new(),
    }
}

/// The histogram of such a text.
pub fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("no base64: {error}"))?;
    Deserializer::new()
        .deserialize(&mut Cursor::new(bytes))
        .map_err(|error| format!("no histogram in HdrHistogram's V2 format: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;

    #[test]
    fn what_is_written_reads_the_same_and_rubbish_is_refused() {
        let mut one = histogram();
        [1, 1_000, 123_456_789].into_iter().for_each(|value| one.saturating_record(value));
        assert_eq!(decode(&encode(&one)).unwrap(), one);
        assert!(decode("no text of ours").unwrap_err().contains("base64"));
        assert!(decode("AAAA").unwrap_err().contains("V2"));
    }
}
