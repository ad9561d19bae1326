//! `longshore endpoint`: what the platform does around containers.

mod command;
mod fleet;
mod runtime;
