//! Fallible allocation for buffers that grow with a request or a response.
//!
//! An ordinary vector aborts the process when it cannot grow, and one request must not end a
//! process that serves many tenants. So every buffer as large as a body is allocated here, and a
//! failure refuses only that request. Small allocations (names, messages, shapes) use the ordinary
//! functions.

use crate::codec::error::{BoxedDecodeError, DecodeError, EncodeError};

/// The allocation failed.
#[derive(Debug)]
pub(super) struct NoMemory;

impl From<NoMemory> for DecodeError {
    fn from(_: NoMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<NoMemory> for BoxedDecodeError {
    #[cold]
    fn from(_: NoMemory) -> Self {
        Box::new(DecodeError::OutOfMemory)
    }
}

impl From<NoMemory> for EncodeError {
    fn from(_: NoMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Reserves room for one more item. A full vector doubles its capacity.
#[inline]
pub(super) fn reserve_one<T>(items: &mut Vec<T>) -> Result<(), NoMemory> {
    const FIRST: usize = 16;
    if items.len() < items.capacity() {
        return Ok(());
    }
    items.try_reserve(items.len().max(FIRST)).map_err(|_| NoMemory)
}

/// Allocates an empty vector with room for `count` items.
pub(super) fn with_capacity<T>(count: usize) -> Result<Vec<T>, NoMemory> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| NoMemory)?;
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_allocation_is_an_error() {
        assert!(with_capacity::<u64>(usize::MAX / 8).is_err());
        assert!(with_capacity::<u8>(1 << 62).is_err());
        assert_eq!(with_capacity::<u8>(100).unwrap().capacity(), 100);
    }

    #[test]
    fn the_capacity_doubles() {
        let mut items = Vec::new();
        let mut grown = 0;
        for i in 0..10_000 {
            let before = items.capacity();
            reserve_one(&mut items).unwrap();
            grown += usize::from(items.capacity() != before);
            items.push(i);
        }
        assert!(grown < 12, "{grown}");
    }
}
