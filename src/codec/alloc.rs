//! Memory that grows with a request or a reply, asked for so that "no" is an answer.
//!
//! A vector that cannot grow ends the process; whoever serves many tenants cannot have that for one request. So what is
//! as large as a body comes from here, and the request alone is refused when there is none. Small things (names,
//! messages, shapes) are made as usual.

use crate::codec::error::{BoxedDecodeError, DecodeError, EncodeError};

/// There is no memory.
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

/// Makes room for one more item, and for as many again when there is none.
#[inline]
pub(super) fn reserve_one<T>(items: &mut Vec<T>) -> Result<(), NoMemory> {
    const FIRST: usize = 16;
    if items.len() < items.capacity() {
        return Ok(());
    }
    items.try_reserve(items.len().max(FIRST)).map_err(|_| NoMemory)
}

/// An empty vector for `count` items.
pub(super) fn with_capacity<T>(count: usize) -> Result<Vec<T>, NoMemory> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| NoMemory)?;
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused() {
        assert!(with_capacity::<u64>(usize::MAX / 8).is_err());
        assert!(with_capacity::<u8>(1 << 62).is_err());
        assert_eq!(with_capacity::<u8>(100).unwrap().capacity(), 100);
    }

    #[test]
    fn room_doubles() {
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
