//! Answers connections that wait for a server which will not accept them.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, acceptfrom_with, recv};

use super::acceptor::refuse_new_connections;

const REPLY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n\
content-length: 88\r\n\r\n\
{\"code\":503,\"type\":\"ServiceUnavailableException\",\"message\":\"the container is stopping\"}\n";

/// Sends a 503 to the clients that wait to be accepted, and closes the socket. Returns the number
/// of clients.
pub fn turn_away(listener: TcpListener) -> usize {
    refuse_new_connections(&listener);
    // A blocking socket would make the loop wait for clients; closing the socket is the end anyway.
    if listener.set_nonblocking(true).is_err() {
        return 0;
    }
    let mut clients = 0;
    loop {
        match acceptfrom_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((client, _)) => {
                clients += 1;
                answer(&client.into());
            }
            Err(Errno::INTR | Errno::CONNABORTED | Errno::CONNRESET | Errno::PROTO) => {}
            Err(_) => return clients,
        }
    }
}

/// Sends the reply without waiting, as the process is about to end.
fn answer(mut client: &TcpStream) {
    // Unread bytes would turn the reply into a reset.
    while recv(client, &mut [0; 65536], RecvFlags::DONTWAIT).is_ok_and(|(_, read)| read > 0) {}
    // A client that has disconnected needs no reply.
    let _ = client.write_all(REPLY);
    let _ = client.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn waiting_clients_get_a_503() {
        let (head, body) = std::str::from_utf8(REPLY).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let _: serde_json::Value = serde_json::from_str(body).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        for client in &mut clients[1..] {
            client.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        assert_eq!(turn_away(listener), 5);
        for mut client in clients {
            let mut reply = Vec::new();
            client.read_to_end(&mut reply).unwrap();
            assert_eq!(reply, REPLY);
        }
        assert!(TcpStream::connect(address).is_err());
    }
}
