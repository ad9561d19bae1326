//! An address that accepts or refuses connections, and keeps its port in either case.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

pub struct Gate {
    address: SocketAddr,
    /// Binds the port without listening. While nothing else listens on it, the system refuses
    /// connections and does not give the port to another process.
    _holder: OwnedFd,
    serve: Arc<dyn Fn(TcpStream, SocketAddr) + Send + Sync>,
    acceptor: Mutex<Option<Acceptor>>,
}

struct Acceptor {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Gate {
    /// A closed gate. `serve` runs on a thread for each connection.
    pub fn new(serve: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static) -> Self {
        let (holder, address) = hold_port().unwrap();
        Self {
            address,
            _holder: holder,
            serve: Arc::new(serve),
            acceptor: Mutex::default(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn open(&self) {
        let mut acceptor = self.acceptor.lock().unwrap();
        if acceptor.is_some() {
            return;
        }
        let listener = TcpListener::bind(self.address).unwrap();
        let closing = Arc::new(AtomicBool::new(false));
        let (serve, is_closing) = (Arc::clone(&self.serve), Arc::clone(&closing));
        let thread = thread::spawn(move || {
            while let Ok((stream, client)) = listener.accept() {
                if is_closing.load(Ordering::SeqCst) {
                    return;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream, client));
            }
        });
        *acceptor = Some(Acceptor { closing, thread });
    }

    /// Refuses new connections once it has returned. Accepted connections stay open.
    pub fn close(&self) {
        let Some(acceptor) = self.acceptor.lock().unwrap().take() else {
            return;
        };
        acceptor.closing.store(true, Ordering::SeqCst);
        // Wakes the thread up. An error means that the thread has ended already.
        let _ = TcpStream::connect(self.address);
        let _ = acceptor.thread.join();
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn hold_port() -> io::Result<(OwnedFd, SocketAddr)> {
    let holder = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Lets a listener share the port.
    sockopt::set_socket_reuseaddr(&holder, true)?;
    bind(&holder, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let address = SocketAddr::try_from(getsockname(&holder)?)?;
    Ok((holder, address))
}
