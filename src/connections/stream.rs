//! A connection's socket as actix sees it.
//!
//! A connection that is to go ends as if the client had closed it, so actix needs to know nothing
//! of it. It does so only when the kernel holds no more bytes: a request that has arrived is read
//! and answered, also when tokio has not seen it yet.

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
    // Closed before its place is given back.
    socket: TcpStream,
    registered: Registered,
    /// Whether bytes have come since actix could last act on them.
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

    /// Reads what the kernel holds; without anything left, the connection ends if it may.
    fn read_last(&mut self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            return match recv(&self.socket, buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
                Ok((_, read)) => {
                    buffer.advance(read);
                    self.note(read);
                    Poll::Ready(Ok(()))
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    if !self.connection().ends() {
                        Poll::Pending
                    } else if self.has_news {
                        // The handler has not seen them: it may now have all that it waits for.
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

    fn note(&mut self, read: usize) {
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
            Poll::Ready(Ok(())) => this.note(buffer.filled().len() - before),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                // In this order: a fate that is set in between wakes the task.
                this.connection().wake_on_doom(context);
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
