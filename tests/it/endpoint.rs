//! `longshore endpoint`: what the platform does around containers.

pub mod command;
mod fleet;
mod runtime;
