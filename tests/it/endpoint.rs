//! `longshore endpoint`: what the platform does around containers.

mod clients;
pub mod command;
mod fleet;
mod runtime;
