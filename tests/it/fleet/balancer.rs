//! Servers behind a real HAProxy, on addresses of their own.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::{fs, io};

use crate::harness::{Builder, Connection, Models, Request, Response, Server, eventually, skip_unless};

/// The configuration that is tested.
pub fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("container/deploy/fleet/haproxy.cfg")
}

/// Whether HAProxy is missing here.
pub fn is_skipped() -> bool {
    skip_unless(&["haproxy", "-v"])
}

/// Servers and a balancer, which end with the value. Server N listens on 127.x.y.N; each fleet has
/// an x and a y of its own.
pub struct Fleet {
    servers: BTreeMap<usize, Server>,
    haproxy: Child,
    root: PathBuf,
    places: Places,
}

/// The addresses of a fleet, and its folder.
struct Places {
    net: String,
    port: u16,
    address: SocketAddr,
    status: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.haproxy.kill();
        let _ = self.haproxy.wait();
    }
}

/// A port that the system chose. HAProxy cannot report one, and all servers have the same one.
fn free(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

impl Places {
    fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Tests of another process, with another id, run on the same machine.
        let [high, low] = (std::process::id() as u16).wrapping_mul(37).to_be_bytes();
        let next = low.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed) as u8);
        let net = format!("127.{}.{next}.", 64 + high % 128);
        Self {
            port: free(&format!("{net}0")).port(),
            net,
            address: free("127.0.0.1"),
            status: free("127.0.0.1"),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts HAProxy by the program `through`, with `variables` in place of the usual ones.
    fn start_haproxy(&self, through: &[&str], variables: &[(&str, &str)]) -> Child {
        let mut words = through.iter().chain(&["haproxy", "-db", "-f"]);
        let log = fs::File::create(self.log()).unwrap();
        Command::new(words.next().unwrap())
            .args(words)
            .arg(config())
            .env("LONGSHORE_FLEET_PREFIX", &self.net)
            .env("LONGSHORE_FLEET_SUFFIX", format!(":{}", self.port))
            .env("LONGSHORE_FLEET_BIND", self.address.to_string())
            .env("LONGSHORE_FLEET_STATUS", self.status.to_string())
            .env("LONGSHORE_FLEET_SLOWSTART", "0")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

impl Fleet {
    /// Starts `count` servers with `arguments` and a balancer that knows all of them.
    pub fn start(models: &Models, count: usize, arguments: &[&str]) -> Self {
        let mut fleet = Self::empty(models);
        for server in 0..count {
            fleet.start_server(server, arguments);
        }
        fleet.wait_until_up(&(0..count).collect::<Vec<_>>());
        fleet
    }

    /// Starts a balancer without servers.
    pub fn empty(models: &Models) -> Self {
        let places = Places::new();
        Self {
            servers: BTreeMap::new(),
            haproxy: places.start_haproxy(&[], &[]),
            root: models.root().to_owned(),
            places,
        }
    }

    /// Stops the balancer, and starts it again by the program `through`, with `variables` in place
    /// of the usual ones.
    pub fn restart_haproxy(&mut self, through: &[&str], variables: &[(&str, &str)]) {
        self.haproxy.kill().unwrap();
        self.haproxy.wait().unwrap();
        self.haproxy = self.places.start_haproxy(through, variables);
        self.wait_until_up(&self.servers.keys().copied().collect::<Vec<_>>());
    }

    pub fn start_server(&mut self, server: usize, arguments: &[&str]) {
        let builder = Builder::store(self.root.to_str().unwrap(), [])
            .arguments(["--bind", &self.host(server), "--port", &self.places.port.to_string()])
            .argument("--behind-balancer")
            .arguments(arguments);
        self.servers.insert(server, builder.start());
    }

    /// The address of a server, without its port.
    pub fn host(&self, server: usize) -> String {
        format!("{}{server}", self.places.net)
    }

    pub fn server(&self, server: usize) -> &Server {
        &self.servers[&server]
    }

    /// Takes a server out of the fleet, which continues to run.
    pub fn take(&mut self, server: usize) -> Server {
        self.servers.remove(&server).unwrap()
    }

    /// Kills a server with SIGKILL.
    pub fn kill(&mut self, server: usize) {
        drop(self.take(server));
    }

    pub fn address(&self) -> SocketAddr {
        self.places.address
    }

    /// The address of the statistics.
    pub fn status(&self) -> SocketAddr {
        self.places.status
    }

    pub fn haproxy_id(&self) -> u32 {
        self.haproxy.id()
    }

    pub fn wait_for_haproxy(&mut self) -> ExitStatus {
        self.haproxy.wait().unwrap()
    }

    /// Waits until HAProxy has seen that exactly these servers are up.
    #[track_caller]
    pub fn wait_until_up(&self, servers: &[usize]) {
        eventually("HAProxy knows which servers are up", || {
            self.up().as_deref() == Some(servers)
        });
    }

    /// The servers that are up; `None` while HAProxy starts.
    fn up(&self) -> Option<Vec<usize>> {
        let (page, _) = send(self.places.status, &Request::get("/;csv")).ok()?;
        let text = page.expect(200).text();
        let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let up = rows.filter(|row| row[0] == "models" && row.get(17).is_some_and(|status| status.starts_with("UP")));
        Some(
            up.filter_map(|row| row[1].strip_prefix("longshore-")?.parse().ok())
                .collect(),
        )
    }

    /// Sends a request to the balancer. Returns the response and the server that gave it.
    #[track_caller]
    pub fn send(&self, request: &Request) -> (Response, Option<usize>) {
        match send(self.places.address, request) {
            Ok(answer) => answer,
            Err(error) => panic!("{error}; HAProxy's log:\n{}", self.log()),
        }
    }

    /// The lines that the balancer has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.places.log()).unwrap_or_default()
    }
}

/// Sends a request. Returns the response and the server that gave it.
pub fn send(address: SocketAddr, request: &Request) -> io::Result<(Response, Option<usize>)> {
    let mut connection = Connection::open(address)?;
    let bytes = request.clone().header("Connection", "close").to_bytes();
    // Some clients send head and body one after the other. HAProxy must repeat these, too.
    let body = bytes
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .map_or(bytes.len(), |end| end + 4);
    connection.write(&bytes[..body])?;
    connection.write(&bytes[body..])?;
    let response = connection.read_unchecked(request.method())?;
    let server = response.header("x-longshore-server");
    let server = server.and_then(|name| name.strip_prefix("longshore-")?.parse().ok());
    Ok((response, server))
}

/// Whether a request gets a 200.
pub fn is_answered(address: SocketAddr, request: &Request) -> bool {
    send(address, request).is_ok_and(|(response, _)| response.status == 200)
}
