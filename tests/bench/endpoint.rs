//! Measures the time that `longshore endpoint` adds to a request. Measurements through the endpoint
//! alternate with direct ones, to warm containers.

use std::time::Duration;

use crate::bodies;
use crate::client::Measured;
use crate::server::{Models, Server};
use crate::support::networks;
use crate::table::{head, ratio, row, time};

/// The duration of the measurement of each row, in `TURNS` turns.
const MEASURE: Duration = Duration::from_secs(4);
const TURNS: u32 = 4;

/// The width of the model's input.
const FEATURES: usize = 32;

/// The path of the endpoint's requests.
const INVOCATIONS: &str = "/endpoints/longshore/invocations";

/// A route to a model: the server and the request.
struct Route<'a> {
    server: &'a Server,
    request: Vec<u8>,
}

pub fn run() {
    println!(
        "Model: {FEATURES}-64-8 perceptron, 11 KB, one row of JSON. The containers are separate processes (`--container`), so \
         that the CPU time of each process is its own.\n"
    );
    head(&[
        "endpoint",
        "connections",
        "direct p50",
        "through p50",
        "adds",
        "container CPU",
        "endpoint CPU",
        "of the container's",
    ]);
    let models = Models::new();
    let model = models.write("mlp", &networks::mlp(&[FEATURES, 64, 8], 1));
    let folder = model.to_str().expect("a UTF-8 name");
    let single = Server::start_with(&["--model-dir", folder], &[]);
    let direct = Route {
        request: bodies::json_to("/invocations", &[], 1, FEATURES),
        server: &single,
    };
    let one = Server::endpoint(&["--container", &format!("a=http://{}", single.address())]);
    let through = Route {
        request: bodies::json_to(INVOCATIONS, &[], 1, FEATURES),
        server: &one,
    };
    through.wait();
    compare("one model", &direct, &through);

    let cache = tempfile::tempdir().expect("a folder");
    let root = cache.path().to_str().expect("a UTF-8 name");
    // The container reads the models from the folder in which the endpoint links them.
    let many = Server::start_with(&["--multi-model", "--models-root", root], &[]);
    let attached = format!("a=http://{}", many.address());
    let parent = folder.strip_suffix("/mlp").expect("the folder of the model");
    let multi = Server::endpoint(&["--cache-dir", root, "--multi-model", parent, "--container", &attached]);
    let through = Route {
        request: bodies::json_to(INVOCATIONS, &[("X-Amzn-SageMaker-Target-Model", "mlp")], 1, FEATURES),
        server: &multi,
    };
    through.wait();
    let direct = Route {
        request: bodies::json(&many.first_model(), 1, FEATURES),
        server: &many,
    };
    compare("one of many models", &direct, &through);
}

impl Route<'_> {
    /// Waits until the endpoint is in service.
    fn wait(&self) {
        let mut connection = self.server.connect();
        for _ in 0..1000 {
            if connection.send(&self.request).0 == 200 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the endpoint is not in service after 10 seconds");
    }

    fn measure(&self, connections: usize) -> Measured {
        self.server
            .measure(std::slice::from_ref(&self.request), connections, MEASURE / TURNS)
    }
}

fn compare(what: &str, direct: &Route<'_>, through: &Route<'_>) {
    eprintln!("  {what}");
    for connections in [1, 16] {
        let turns: Vec<_> = (0..TURNS)
            .map(|_| {
                let directly = direct.measure(connections);
                (directly, through.measure(connections))
            })
            .collect();
        let (directly, through): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
        let (directly, through) = (Measured::merge(directly), Measured::merge(through));
        let (container, endpoint) = (directly.cpu_each(), through.cpu_each());
        row(&[
            &what,
            &connections,
            &time(directly.percentile(50)),
            &time(through.percentile(50)),
            &time(through.percentile(50).saturating_sub(directly.percentile(50))),
            &time(container),
            &time(endpoint),
            &ratio(endpoint.as_secs_f64(), container.as_secs_f64()),
        ]);
    }
}
