//! Unique ids of requests and inferences, in the form of AWS's.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::Hasher;

/// Creates ids that no other process creates.
#[derive(Debug)]
pub struct Ids {
    process: [u64; 2],
    made: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        // The only randomness in the standard library: each `RandomState` has its own keys.
        let random = || RandomState::new().hash_one(std::process::id());
        Self {
            process: [random(), random()],
            made: AtomicU64::new(0),
        }
    }
}

impl Ids {
    /// A new id in the form of a random UUID.
    pub fn next(&self) -> String {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let mut hasher = Hasher::new();
        for part in self.process.into_iter().chain([made]) {
            hasher.update(&part.to_le_bytes());
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut id = String::with_capacity(36);
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                id.push('-');
            }
            id.push_str(&format!("{byte:02x}"));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_uuids_and_differ() {
        let (one, other) = (Ids::default(), Ids::default());
        let ids = [one.next(), one.next(), other.next()];
        for id in &ids {
            let lengths: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(&id[14..15], "4");
        }
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }
}
