//! Finds the owner of a socket with netlink's `sock_diag`: one request and one response, for any
//! number of sockets.
//!
//! Some kernels are built without it, and sandboxes may forbid it.

use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use super::SocketOwner;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// A netlink header (16 bytes) and `inet_diag_req_v2` (56).
const REQUEST_BYTES: u32 = 72;

/// Offsets of the owner in `inet_diag_msg`, from the beginning of the netlink header.
const USER_AT: usize = 80;
const INODE_AT: usize = 84;

/// The owner of the TCP socket at `local` that is connected to `remote`.
pub(super) fn owner(local: SocketAddr, remote: SocketAddr) -> Option<SocketOwner> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )
    .ok()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request(local, remote)?, SendFlags::empty(), &kernel).ok()?;
    let mut reply = [0; 512];
    // The kernel has answered when the send call returns.
    let (_, length) = recv(&socket, &mut reply[..], RecvFlags::DONTWAIT).ok()?;
    read(reply.get(..length)?)
}

fn request(local: SocketAddr, remote: SocketAddr) -> Option<Vec<u8>> {
    let family = match (local.ip(), remote.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AF_INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AF_INET6,
        _ => return None,
    };
    let mut request = Vec::new();
    request.extend(REQUEST_BYTES.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and sender, which the kernel fills in.
    request.extend([0; 8]);
    // No extensions in the response, and any state of the socket.
    request.extend([family, IPPROTO_TCP, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        match address {
            IpAddr::V4(address) => {
                request.extend(address.octets());
                request.extend([0; 12]);
            }
            IpAddr::V6(address) => request.extend(address.octets()),
        }
    }
    // Any interface, and no cookie of an earlier response.
    request.extend([0; 4]);
    request.extend([0xff; 8]);
    Some(request)
}

fn read(reply: &[u8]) -> Option<SocketOwner> {
    let number = |at: usize| {
        let bytes = reply.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    let kind = reply.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    // Other types are errors: the socket is missing, or the request is not supported.
    if kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    Some(SocketOwner {
        user: number(USER_AT)?,
        inode: u64::from(number(INODE_AT)?),
    })
}
