//! Folders and secrets that are this user's alone.
//!
//! The cache outlives processes, and its usual place is below the temporary directory, where every user of the machine may
//! make folders. Two things keep strangers out. A folder is refused when anybody but this user or root could replace it:
//! itself, and each folder and link on the way to it. And what lies in it goes by names that depend on a random key, which
//! only this user can read: a stranger who finds a way to write there after all cannot foresee the name of an entry.

mod folder;
mod key;
mod temporary;

pub use folder::{Refusal, make};
pub use key::Key;
pub use temporary::{Temporary, tidy};
