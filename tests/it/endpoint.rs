//! `longshore endpoint`: what the platform does around containers.

mod clients;
mod command;
mod fleet;
mod runtime;
