//! Finds the owner of a socket in the kernel's tables of all sockets. Works wherever `/proc` is
//! mounted, but is slow where there are many sockets.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{SocketOwner, canonical};

/// Both tables are searched, because an IPv4 connection may belong to an IPv6 socket.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The owner of the TCP socket at `local` that is connected to `remote`.
pub(super) fn owner(local: SocketAddr, remote: SocketAddr) -> Option<SocketOwner> {
    TABLES.iter().find_map(|path| {
        let table = fs::read_to_string(path).ok()?;
        table.lines().skip(1).find_map(|line| read(line, local, remote))
    })
}

/// Reads the owner from a line of the table, if the line is about this socket.
fn read(line: &str, local: SocketAddr, remote: SocketAddr) -> Option<SocketOwner> {
    let mut words = line.split_whitespace().skip(1);
    let is_it = address(words.next()?)? == local && address(words.next()?)? == remote;
    // State, queues, timers and retransmissions come before the user, a timeout before the inode.
    let user = words.nth(4)?;
    let inode = words.nth(1)?;
    is_it.then_some(SocketOwner {
        user: user.parse().ok()?,
        inode: inode.parse().ok()?,
    })
}

/// Parses `0100007F:1F90`: words of 32 bits in this machine's byte order, and a plain port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for start in (0..words.len()).step_by(8) {
        let word = words.get(start..start + 8)?;
        bytes.extend(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
    }
    let address = match (<[u8; 4]>::try_from(&*bytes), <[u8; 16]>::try_from(&*bytes)) {
        (Ok(bytes), _) => IpAddr::V4(Ipv4Addr::from(bytes)),
        (_, Ok(bytes)) => IpAddr::V6(Ipv6Addr::from(bytes)),
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(canonical(SocketAddr::new(address, port)))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_socket_is_read() {
        let line =
            "   3: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 4242 1 0 20";
        let (client, server) = ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        let owner = SocketOwner {
            user: 1001,
            inode: 4242,
        };
        assert_eq!(read(line, client, server), Some(owner));
        assert_eq!(read(line, server, client), None);
        let mapped = line.replace("0100007F", "0000000000000000FFFF00000100007F");
        assert_eq!(read(&mapped, client, server), Some(owner));
        let (client, server) = ("[::1]:40000".parse().unwrap(), "[::1]:8080".parse().unwrap());
        let six = line.replace("0100007F", "00000000000000000000000001000000");
        assert_eq!(read(&six, client, server), Some(owner));
        for damaged in [
            "",
            "sl local",
            "0: 0100007F:9C40",
            "0: xx:9C40 0100007F:1F90 01 0 0 0 0 0 0",
        ] {
            assert_eq!(read(damaged, client, server), None, "{damaged}");
        }
    }
}
