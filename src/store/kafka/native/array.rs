//! The arrays of pointers that librdkafka's results consist of.

use std::slice;

/// Returns the array that `get` returns. `get` writes the array's length to its argument.
///
/// # Safety
/// The array has that length, or is null. The array and its elements live for `'a`.
pub(super) unsafe fn array<'a, T>(get: impl FnOnce(*mut usize) -> *mut *const T) -> &'a [*const T] {
    let mut length = 0;
    let first = get(&mut length);
    if first.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(first, length) }
}
