//! `longshore endpoint`: what the platform does around containers.

mod fleet;
mod runtime;
