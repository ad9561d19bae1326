//! Stores against a server that plays S3, the other clouds and simpler ones.

mod clouds;
mod credentials;
mod failures;
mod folders;
mod local;
mod objects;
