//! Allocates image buffers so that a failure is an error of one request. A failed allocation of a
//! plain vector would abort the process.

use crate::vision::VisionError;

/// Allocates an empty vector with capacity for `count` items.
pub(super) fn reserved<T>(count: usize) -> Result<Vec<T>, VisionError> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| VisionError::OutOfMemory)?;
    Ok(items)
}

/// Allocates a vector with `count` copies of `item`.
pub(super) fn filled<T: Clone>(item: T, count: usize) -> Result<Vec<T>, VisionError> {
    let mut items = reserved(count)?;
    items.resize(count, item);
    Ok(items)
}

/// The number of bytes of an image with this size.
pub(super) fn byte_count(width: u32, height: u32, bytes_per_pixel: usize) -> Result<usize, VisionError> {
    usize::try_from(u64::from(width) * u64::from(height))
        .ok()
        .and_then(|pixels| pixels.checked_mul(bytes_per_pixel))
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or(VisionError::OutOfMemory)
}
