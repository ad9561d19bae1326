//! `longshore endpoint`: the parts of SageMaker around a container, on this machine.
//!
//! Code written for AWS runs against it unchanged.

pub mod client;
pub mod control;
pub mod deal;
pub mod declare;
pub mod error;
pub mod event_stream;
pub mod fault;
pub mod fleet;
pub mod http;
pub mod loader_variables;
pub mod multi_model;
mod page;
pub mod pattern;
pub mod pipeline;
pub mod provision;
pub mod runtime;
pub mod spec;
pub mod state;
pub mod tether;

#[cfg(test)]
mod testing;
