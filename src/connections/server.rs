//! The threads that serve connections, and the handle to stop them.

use std::fmt::Debug;
use std::future::{Future, poll_fn, ready};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actix_http::{Extensions, HttpService, Request, RequestHead, Response};
use actix_rt::{self as rt, Arbiter};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::AppConfig;
use actix_web::rt::net::TcpStream;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::sync::{mpsc as queues, oneshot};

use super::acceptor::{self, Accepted, Acceptor, ServingThread, StopRequest};
use super::choice::ConnectionLimits;
use super::registry::Registry;
use super::stream::Stream;

/// Time to go on reading from a client that still sends when its connection has to close.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The options of a server.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    pub threads: usize,
    pub limits: ConnectionLimits,
    /// Time for which a connection without a request stays open.
    pub keep_alive: Duration,
    /// Time for a client to accept sent bytes.
    pub write_timeout: Duration,
}

/// A server that accepts connections until it is stopped.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    stop: mpsc::Sender<StopRequest>,
    arbiters: Vec<Arbiter>,
}

impl Server {
    /// Stops accepting, answers the requests that have arrived, and returns when all connections
    /// have ended, or the rest has got a 503 after `drain`.
    pub async fn stop(self, drain: Duration) {
        self.end(drain, false).await;
    }

    /// Like [`Self::stop`], but leaves the connections that wait to be accepted to another process
    /// that has the socket.
    pub async fn leave_to_another(self, drain: Duration) {
        self.end(drain, true).await;
    }

    async fn end(self, drain: Duration, leaves_queue: bool) {
        let (done, ended) = oneshot::channel();
        let stop = StopRequest {
            deadline: Instant::now() + drain,
            leaves_queue,
            done,
        };
        if self.stop.send(stop).is_ok() {
            self.registry.wake();
            // An error also means that the server has ended.
            let _ = ended.await;
        }
        for arbiter in self.arbiters {
            arbiter.stop();
        }
    }
}

/// Starts serving on `listener`. Each thread creates its own `app`; `connected` sees each
/// connection first. A client that asks whether to send its body (`Expect: 100-continue`) gets a
/// yes, unless `refuses` answers to the head of the request.
pub fn start<F, I, S, B>(
    listener: TcpListener,
    settings: &ConnectionConfig,
    connected: impl Fn(&TcpStream, &mut Extensions) + Clone + Send + 'static,
    refuses: impl Fn(&RequestHead) -> Option<Response<BoxBody>> + Clone + Send + 'static,
    app: F,
) -> io::Result<Server>
where
    F: Fn() -> I + Clone + Send + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    listener.set_nonblocking(true)?;
    limit_unread(&listener, settings.write_timeout);
    let registry = Arc::new(Registry::new(settings.limits)?);
    let (mut arbiters, mut workers) = (Vec::new(), Vec::new());
    for _ in 0..settings.threads {
        let (queue, accepted) = queues::unbounded_channel();
        let arbiter = Arbiter::try_new()?;
        let (app, connected, refuses, settings) = (app.clone(), connected.clone(), refuses.clone(), settings.clone());
        arbiter.spawn_fn(move || {
            let service = HttpService::<Stream, _, _>::build()
                .keep_alive(settings.keep_alive)
                .client_request_timeout(settings.limits.header_timeout)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                // A client that has closed its sending side counts as gone, as in nginx: the
                // connection is closed at once, which drops the handler, releases its place in a
                // queue and ends its run.
                .h1_allow_half_closed(false)
                .expect(fn_service(move |request: Request| {
                    ready(match refuses(request.head()) {
                        None => Ok(request),
                        Some(refusal) => Err(refusal),
                    })
                }))
                .on_connect_ext(move |stream: &Stream, data| {
                    connected(stream.socket(), data);
                    data.insert(Arc::clone(stream.connection()));
                });
            let app = app().into_factory().map_err(|error| error.into().error_response());
            let made = service.h1(map_config(app, |_| AppConfig::default())).new_service(());
            rt::spawn(async move {
                match made.await {
                    Ok(service) => serve(service, accepted).await,
                    // The queue is dropped, and the acceptor logs that.
                    Err(error) => tracing::error!(?error, "start to serve connections"),
                }
            });
        });
        workers.push(ServingThread {
            queue,
            load: Arc::new(AtomicUsize::new(0)),
        });
        arbiters.push(arbiter);
    }
    let (stop, stops) = mpsc::channel();
    acceptor::start(Acceptor::new(listener, Arc::clone(&registry), workers, stops))?;
    Ok(Server {
        registry,
        stop,
        arbiters,
    })
}

/// Serves each connection of the queue in a task of this thread.
async fn serve<S>(service: S, mut accepted: queues::UnboundedReceiver<Accepted>)
where
    S: Service<(Stream, Option<std::net::SocketAddr>), Response = ()>,
    S::Future: Future + 'static,
    S::Error: Debug,
{
    if let Err(error) = poll_fn(|context| service.poll_ready(context)).await {
        tracing::error!(?error, "start to serve connections");
        return;
    }
    while let Some(accepted) = accepted.recv().await {
        let Accepted {
            socket,
            peer,
            registered,
            load,
        } = accepted;
        match TcpStream::from_std(socket) {
            Ok(socket) => {
                let connection = service.call((Stream::new(socket, registered), peer));
                rt::spawn(async move {
                    // Errors of the client were answered, or it has disconnected.
                    if let Err(error) = connection.await {
                        tracing::trace!(?error, "a connection ended with an error");
                    }
                    drop(load);
                });
            }
            Err(error) => tracing::error!(%error, "serve a connection"),
        }
    }
}

/// Ends connections whose client does not accept sent bytes. The kernel enforces this, because
/// actix has no such time limit. Accepted sockets inherit the option.
fn limit_unread(listener: &TcpListener, timeout: Duration) {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = set_tcp_user_timeout(listener, milliseconds) {
        tracing::warn!(%error, "clients that do not read their responses are not disconnected");
    }
}
