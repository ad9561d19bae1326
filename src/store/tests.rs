//! Stores against a server that plays S3 and simpler ones.

mod credentials;
mod failures;
mod folders;
mod local;
mod objects;
