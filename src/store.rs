//! Where models come from: stores of objects and local directories.

mod environment;
mod error;
mod name;
mod version;

pub use environment::Environment;
pub use error::{OpenError, StoreError};
pub use name::{Name, NameError};
pub use version::Version;
