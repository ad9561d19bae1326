//! Where models come from: stores of objects and local directories.

mod aws;
mod bucket;
mod clouds;
mod container;
mod download;
mod environment;
mod error;
mod exchange;
mod listing;
mod local;
mod location;
mod name;
mod profile;
mod remote;
mod tries;
mod version;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use environment::Environment;
pub use error::{Answer, OpenError, StoreError};
pub use listing::StoredFile;
pub use name::{Name, NameError};
pub use remote::{Folder, Found, Object, Reader, Remote, RemoteSettings};
pub use version::Version;
