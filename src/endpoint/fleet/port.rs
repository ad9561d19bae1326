//! A reserved port for each container that runs as a process.
//!
//! The kernel chooses the port, and a socket that is bound but does not listen reserves it. Both
//! sockets set `SO_REUSEADDR`, as servers do anyway, so the container can bind the port and
//! listen. The kernel assigns it to no other process, neither for listening on port 0 nor for an
//! outgoing connection. So only the container answers there, across all its restarts, and two
//! endpoints on one machine do not collide.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A port that is reserved as long as this exists.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    pub fn reserve() -> io::Result<Self> {
        // Closed in children, so that the port is free once this process has ended.
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        let address = SocketAddrV4::try_from(getsockname(&socket)?)?;
        Ok(Self {
            number: address.port(),
            _socket: socket,
        })
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// Whether no process listens on the port. A killed container may have left a child that is
    /// still ending.
    pub fn is_free(&self) -> bool {
        TcpListener::bind((Ipv4Addr::LOCALHOST, self.number)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_assigned_only_when_requested_by_number() {
        let port = Port::reserve().unwrap();
        let others: Vec<_> = (0..100).map(|_| Port::reserve().unwrap()).collect();
        assert!(others.iter().all(|other| other.number() != port.number()));
        for _ in 0..100 {
            let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            assert_ne!(any.local_addr().unwrap().port(), port.number());
        }
        assert!(port.is_free());
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let server = TcpListener::bind((address, port.number())).unwrap();
            assert!(!port.is_free());
            drop(server);
        }
        assert!(port.is_free());
    }
}
