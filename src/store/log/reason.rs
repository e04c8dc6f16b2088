//! The reasons that clients get when the disk fails, in plain words. The server's log has the system's error
//! next to the same words.

use std::io::{Error, ErrorKind};

/// There is no room for another file.
pub(super) const DISK_IS_FULL: &str = "the disk is full";

/// Stored messages cannot be read.
pub(super) const CANNOT_READ: &str = "the store cannot read these messages";

/// An append takes more than a file of the log. `config` makes sure that no batch does.
pub(super) const TOO_LARGE: &str = "more bytes at once than log_segment_bytes allows";

/// Returns the reason that nothing can be written.
pub(super) fn cannot_write(error: &Error) -> &'static str {
    if is_disk_full(error) { DISK_IS_FULL } else { "the store cannot write now" }
}

/// Returns whether there is no room for what was to be written.
pub(super) fn is_disk_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_become_plain_words() {
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
