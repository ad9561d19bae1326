//! The rules of the operators, by families. Each says where the records are in an operator's outputs.

pub mod elementwise;
pub mod image;
pub mod indexing;
pub mod layout;
pub mod matrix;
pub mod ml;
pub mod reduce;
pub mod roles;
