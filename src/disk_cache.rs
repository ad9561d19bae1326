//! The common core of the two caches on disk: fetched archives (`store/cache.rs`) and prepared
//! models (`engine/load/prepare/cache.rs`).
//!
//! Everything in a cache can be made again, so both keep the same promises:
//! - Entries appear whole, by a rename. Over the limit, the least recently used one goes first. The
//!   time of the last use is that of the entry's description, so the order survives a restart.
//! - The folder and its parents belong to this user alone, and the names of entries depend on a
//!   secret in the folder ([`CacheFolder`], `private.rs`).
//! - Any file may be deleted at any time, and the folder as a whole. The next entry creates it
//!   again, after the same checks.
//! - The next start removes the remains of a killed process.
//!
//! Each cache finds, counts and evicts entries in its own way:
//!
//! | | archives | prepared models |
//! |---|---|---|
//! | the folder belongs to | one process, by a lock | all processes of a user |
//! | an entry is | a folder | two files, and files of constants that entries share |
//! | entries in use | have leases, and stay | are mapped, and may lose their names |
//! | eviction goes by | an index in memory | a scan of the folder |
//! | damage is found by | sizes, when the process starts | a hash, at each use |

mod folder;
mod stamp;

pub use folder::{CacheFolder, FolderError, discard, free_bytes, is_in_memory, make, paths, touch, unusable};
pub use stamp::{FileStamp, is_at};
