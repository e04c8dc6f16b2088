//! What a client is told where the disk fails: plain words, whatever the system says. The log has what the system says, beside
//! the same words.

use std::io::{Error, ErrorKind};

/// There is no room for another file.
pub(super) const DISK_IS_FULL: &str = "the disk is full";

/// Stored messages cannot be read.
pub(super) const CANNOT_READ: &str = "the store cannot read these messages";

/// More in one append than a file of the log takes. `config` sees to it that no batch is.
pub(super) const TOO_LARGE: &str = "more bytes at once than log_segment_bytes allows";

/// Nothing can be written.
pub(super) fn cannot_write(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DISK_IS_FULL,
        _ => "the store cannot write now",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_becomes_plain_words() {
        for (errno, words) in [
            (libc::ENOSPC, "the disk is full"),
            (libc::EDQUOT, "the disk is full"),
            (libc::EIO, "the store cannot write now"),
            (libc::EMFILE, "the store cannot write now"),
            (libc::EROFS, "the store cannot write now"),
        ] {
            assert_eq!(cannot_write(&Error::from_raw_os_error(errno)), words);
        }
        let own = Error::new(ErrorKind::StorageFull, "7 bytes are free in /var/lib/x");
        assert_eq!(cannot_write(&own), "the disk is full");
    }
}
