//! A port of our own for each container that runs as a process.
//!
//! Found by the kernel and held by a socket that is bound and does not listen. With `SO_REUSEADDR` on both, which servers
//! have anyway, the container can bind it and listen; nobody else is given it, neither for listening on "any" port nor for
//! a connection. So whoever answers there is the container, over all its restarts, and two endpoints on a machine do not
//! meet.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// Nobody else is given the port as long as this exists.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    pub fn reserve() -> io::Result<Self> {
        // Closed in children: the port is to be free when this process has ended.
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

    /// Whether nobody listens there: a container that was killed may have left a process that is about to end.
    pub fn is_free(&self) -> bool {
        TcpListener::bind((Ipv4Addr::LOCALHOST, self.number)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_a_reserved_port_gets_it() {
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
