//! Folders, temporary files and secrets that only this user can read and write.
//!
//! The cache outlives processes, and its default location is below the temporary directory, where
//! every user of the machine may create folders. Two measures keep other users out. A folder is
//! refused when any user but this one or root could replace it, or a folder or link on the path to
//! it. And entry names depend on a random key that only this user can read: an intruder who could
//! write there after all cannot predict the name of an entry.

mod folder;
mod key;
mod temporary;

pub use folder::{Refusal, make};
pub use key::Key;
pub use temporary::{Temporary, TemporaryFile, tidy};
