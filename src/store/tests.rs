//! Stores against a server that plays S3, the other clouds and simpler web servers.

mod clouds;
mod credentials;
mod failures;
mod folders;
mod local;
mod objects;
