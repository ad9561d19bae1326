//! The rules of the operators, by families. A rule returns where the records are in the outputs
//! of an operator, or the reason that it mixes them.

pub mod elementwise;
pub mod image;
pub mod indexing;
pub mod layout;
pub mod matrix;
pub mod ml;
pub mod reduce;
pub mod roles;
