//! A connection's socket as actix sees it.
//!
//! A connection that has to end looks to actix as if the client had closed it, so actix needs no
//! change. It ends only when the kernel holds no more bytes: a request that has arrived is read and
//! answered, even if tokio has not seen it yet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::rt::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::choice::Fate;
use super::connection::Connection;
use super::registry::Registered;

/// A socket and its connection's state.
#[derive(Debug)]
pub struct Stream {
    // Declared first, so that the socket is closed before its place is released.
    socket: TcpStream,
    registered: Registered,
    /// Whether bytes have come that actix has not acted on yet.
    has_news: bool,
}

impl Stream {
    pub fn new(socket: TcpStream, registered: Registered) -> Self {
        Self {
            socket,
            registered,
            has_news: false,
        }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn connection(&self) -> &Arc<Connection> {
        self.registered.connection()
    }

    /// Reads the bytes that the kernel holds. Ends the connection if there are none and it may end.
    fn read_last(&mut self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            return match recv(&self.socket, buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
                Ok((_, read)) => {
                    buffer.advance(read);
                    self.record_read(read);
                    Poll::Ready(Ok(()))
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    if !self.connection().ends() {
                        Poll::Pending
                    } else if self.has_news {
                        // The handler has not seen the new bytes, which may be all that it waits
                        // for.
                        self.has_news = false;
                        context.waker().wake_by_ref();
                        Poll::Pending
                    } else {
                        Poll::Ready(Ok(()))
                    }
                }
                Err(error) => Poll::Ready(Err(error.into())),
            };
        }
    }

    fn record_read(&mut self, read: usize) {
        if read > 0 {
            self.has_news = true;
            self.connection().received(read);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.socket).poll_read(context, buffer);
        match polled {
            Poll::Ready(Ok(())) => this.record_read(buffer.filled().len() - before),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                // In this order, a fate that is set in between wakes the task.
                this.connection().wake_on_fate(context);
                if this.connection().fate() != Fate::Stay {
                    return this.read_last(context, buffer);
                }
                this.has_news = false;
            }
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}
