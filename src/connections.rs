//! Accepts connections, chooses which to close when places run out, and ends them when the server
//! stops.
//!
//! `serve` and `endpoint` listen through this module. It replaces actix's own server, which was
//! considered: that one stops accepting at its limit, even if idle connections hold the places. Its
//! stop drops connections that wait for a thread, and closes connections whose request has arrived
//! but was not read. The HTTP protocol itself is still actix's, on a socket type of this module
//! ([`Stream`]).
//!
//! - `choice`: selects the connections to close, from their states alone.
//! - `connection`: the state of one connection. The task that serves it writes, the accepting
//!   thread reads.
//! - `stream`: the socket as actix sees it. A connection that has to end is first read to its last
//!   byte.
//! - `registry`: all connections.
//! - `acceptor`: the thread that accepts, enforces deadlines and stops.
//! - `body`: reads the body of a request.
//! - `pages`: decides which requests of web pages are served.
//! - `server`: the threads that serve, and the handle to stop them.
//! - `turn_away`: answers clients that wait when no server will accept them.
//!
//! Invariants: only the end of the drain timeout closes a connection with a request in progress.
//! Bytes that have arrived are read before a connection is closed. This module costs each request a
//! few stores and no system call.

mod acceptor;
mod body;
mod choice;
mod connection;
pub mod pages;
mod registry;
mod server;
mod stream;
mod turn_away;

pub use body::{BodyError, discard_body, read_body};
pub use choice::ConnectionLimits;
pub use connection::{InFlight, Receiving, Tracked, Watched};
pub use server::{ConnectionConfig, Server, start};
pub use stream::Stream;
pub use turn_away::turn_away;
