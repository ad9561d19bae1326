//! The users of this machine who may use a port: the user of this process and root.
//!
//! There are no credentials, and a port of the loopback interface is open to every user of the
//! machine. But the kernel knows whose socket the other end of such a connection is, and that end
//! is a socket of this machine as well. It is asked once for each connection. Connections of other
//! machines come only when the bound address lets them, and are not looked at.
//!
//! What always holds: a connection whose owner is not known is not admitted. A client that hangs up
//! before the kernel is asked leaves a socket without an owner, which the kernel reports as root's.

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
    Stranger { user: u32 },
    /// A socket of this machine whose user the kernel did not tell.
    Unknown,
}

/// A socket's owner as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    user: u32,
    /// 0 when no process has the socket any more; the user says nothing then.
    inode: u64,
}

impl Peer {
    /// Looks at the other end of a connection that actix has accepted.
    pub fn of_connection(connection: &dyn Any) -> Self {
        let ends = connection
            .downcast_ref::<TcpStream>()
            .and_then(|stream| Some((stream.local_addr().ok()?, stream.peer_addr().ok()?)));
        ends.map_or(Self::Unknown, |(local, remote)| Self::of(local, remote))
    }

    /// Looks at the two ends of an accepted connection. Blocks for as long as the kernel takes to
    /// answer.
    pub fn of(local: SocketAddr, remote: SocketAddr) -> Self {
        decide(remote, geteuid().as_raw(), || {
            // The other way round: the socket that is asked for is the client's.
            let (local, remote) = (canonical(remote), canonical(local));
            sock_diag::owner(local, remote).or_else(|| proc::owner(local, remote))
        })
    }
}

/// In a refusal: why the connection is not served.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("the connection is admitted"),
            Self::Stranger { user } => write!(f, "the connection is of the user with the id {user}"),
            Self::Unknown => f.write_str("the user of the connection is not known"),
        }
    }
}

fn decide(remote: SocketAddr, own: u32, owner: impl FnOnce() -> Option<Owner>) -> Peer {
    const ROOT: u32 = 0;
    if !remote.ip().to_canonical().is_loopback() {
        return Peer::Admitted;
    }
    match owner() {
        None | Some(Owner { inode: 0, .. }) => Peer::Unknown,
        Some(Owner { user, .. }) if user == own || user == ROOT => Peer::Admitted,
        Some(Owner { user, .. }) => Peer::Stranger { user },
    }
}

/// An IPv4 address as such, also where an IPv6 socket has it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn this_user_and_root_are_admitted_and_an_unknown_user_is_not() {
        let owner = |user, inode| Some(Owner { user, inode });
        let stranger = |user| Peer::Stranger { user };
        let table = [
            ("127.0.0.1:9", owner(1000, 7), Peer::Admitted),
            ("127.0.0.1:9", owner(0, 7), Peer::Admitted),
            ("127.0.0.1:9", owner(1001, 7), stranger(1001)),
            ("127.8.0.1:9", owner(1001, 7), stranger(1001)),
            ("[::1]:9", owner(1001, 7), stranger(1001)),
            ("[::ffff:127.0.0.1]:9", owner(1001, 7), stranger(1001)),
            // The rest of a socket that was closed.
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
    fn the_kernel_tells_the_owner_of_a_connection_both_ways() {
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
                assert_eq!(owner, found, "the two agree");
            }
            let peer = || Peer::of(server.local_addr().unwrap(), server.peer_addr().unwrap());
            assert_eq!(peer(), Peer::Admitted);
            drop(client);
            assert_eq!(
                peer(),
                Peer::Unknown,
                "the kernel calls it root's once its process has closed it"
            );
        }
    }
}
