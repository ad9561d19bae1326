//! Admits connections of this process's user and of root, and refuses other users of this machine.
//!
//! Requests carry no credentials, and every user of the machine can connect to a port of the
//! loopback interface. But the other end of such a connection is a socket of this machine as well,
//! and the kernel knows its owner. This module asks the kernel once for each connection.
//! Connections from other machines come only if the bound address allows them, and are not checked.
//!
//! Invariants: a connection with an unknown owner is not admitted. A client that disconnects before
//! the check leaves a socket without an owner, which the kernel reports as root's.

mod proc;
mod sock_diag;

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;

use actix_web::rt::net::TcpStream;
use rustix::process::geteuid;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// This user, root, or another machine.
    Admitted,
    /// Another user of this machine.
    OtherUser { user: u32 },
    /// A socket of this machine whose owner the kernel did not report.
    Unknown,
}

/// The owner of a socket, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SocketOwner {
    user: u32,
    /// 0 when no process has the socket any more; the user is meaningless then.
    inode: u64,
}

impl Peer {
    /// Checks the other end of a connection that actix has accepted.
    pub fn of_connection(connection: &dyn Any) -> Self {
        let ends = connection
            .downcast_ref::<TcpStream>()
            .and_then(|stream| Some((stream.local_addr().ok()?, stream.peer_addr().ok()?)));
        ends.map_or(Self::Unknown, |(local, remote)| Self::of(local, remote))
    }

    /// Checks the two ends of an accepted connection. Blocks for as long as the kernel takes to
    /// answer.
    pub fn of(local: SocketAddr, remote: SocketAddr) -> Self {
        decide(remote, geteuid().as_raw(), || {
            // The ends are swapped, because the client's socket is looked up.
            let (local, remote) = (canonical(remote), canonical(local));
            sock_diag::owner(local, remote).or_else(|| proc::owner(local, remote))
        })
    }
}

/// The reason for a refusal.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("the connection is admitted"),
            Self::OtherUser { user } => write!(f, "the connection belongs to the user with the id {user}"),
            Self::Unknown => f.write_str("the user of the connection is unknown"),
        }
    }
}

fn decide(remote: SocketAddr, own: u32, owner: impl FnOnce() -> Option<SocketOwner>) -> Peer {
    const ROOT: u32 = 0;
    if !remote.ip().to_canonical().is_loopback() {
        return Peer::Admitted;
    }
    match owner() {
        None | Some(SocketOwner { inode: 0, .. }) => Peer::Unknown,
        Some(SocketOwner { user, .. }) if user == own || user == ROOT => Peer::Admitted,
        Some(SocketOwner { user, .. }) => Peer::OtherUser { user },
    }
}

/// Turns an IPv4 address of an IPv6 socket into a plain IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn this_user_and_root_are_admitted_and_an_unknown_user_is_not() {
        let owner = |user, inode| Some(SocketOwner { user, inode });
        let other_user = |user| Peer::OtherUser { user };
        let table = [
            ("127.0.0.1:9", owner(1000, 7), Peer::Admitted),
            ("127.0.0.1:9", owner(0, 7), Peer::Admitted),
            ("127.0.0.1:9", owner(1001, 7), other_user(1001)),
            ("127.8.0.1:9", owner(1001, 7), other_user(1001)),
            ("[::1]:9", owner(1001, 7), other_user(1001)),
            ("[::ffff:127.0.0.1]:9", owner(1001, 7), other_user(1001)),
            // The remains of a closed socket.
            ("127.0.0.1:9", owner(0, 0), Peer::Unknown),
            ("127.0.0.1:9", None, Peer::Unknown),
            ("192.0.2.1:9", None, Peer::Admitted),
        ];
        for (remote, owner, expected) in table {
            assert_eq!(
                decide(remote.parse().unwrap(), 1000, || owner),
                expected,
                "{remote} {owner:?}"
            );
        }
    }

    #[test]
    fn both_lookups_find_the_owner_of_a_connection() {
        let own = geteuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let found = proc::owner(local, remote).unwrap();
            assert_eq!(found.user, own);
            assert_ne!(found.inode, 0);
            if let Some(owner) = sock_diag::owner(local, remote) {
                assert_eq!(owner, found, "both lookups agree");
            }
            let peer = || Peer::of(server.local_addr().unwrap(), server.peer_addr().unwrap());
            assert_eq!(peer(), Peer::Admitted);
            drop(client);
            assert_eq!(peer(), Peer::Unknown, "the kernel reports a closed socket as root's");
        }
    }
}
