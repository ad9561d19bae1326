//! Connections: which are accepted, which are closed when places run out, and how they end when the
//! server stops.
//!
//! `serve` and `endpoint` listen through this module. It takes the place of actix's own server,
//! which was weighed: that one stops accepting at its limit, whoever holds the places; its stop
//! drops connections that wait for a thread, and closes connections whose request has arrived but
//! was not read. The HTTP itself is still actix's, on a socket type of this module ([`Stream`]).
//!
//! - `choice`: which connections to close, decided from their states alone.
//! - `connection`: the state of one connection. The task that serves it writes, the accepting
//!   thread reads.
//! - `stream`: the socket as actix sees it. A connection that is to go is read to its last byte
//!   before it ends.
//! - `registry`: all connections.
//! - `acceptor`: the thread that accepts, enforces deadlines and stops.
//! - `pages`: which requests of pages in browsers are served.
//! - `server`: the threads that serve, and the handle to stop them.
//! - `turn_away`: the answer to clients that wait when no server is left to take them.
//!
//! What always holds: a connection with a request under way is closed by nothing but the end of the
//! drain timeout; what has arrived is read before a connection is closed; a request costs a few
//! stores and no system call more than without this module.

mod acceptor;
mod choice;
mod connection;
pub mod pages;
mod registry;
mod server;
mod stream;
mod turn_away;

pub use choice::Limits;
pub use connection::{InFlight, Receiving, Tracked};
pub use server::{Server, Settings, start};
pub use stream::Stream;
pub use turn_away::turn_away;
