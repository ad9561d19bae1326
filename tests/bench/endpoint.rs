//! What `longshore endpoint` adds to a request: asked through it and directly, in turns, of containers that are warm.

use std::time::Duration;

use crate::bodies;
use crate::client::Measured;
use crate::server::{Models, Server};
use crate::support::networks;
use crate::table::{head, ratio, row, time};

/// How long each row is measured, in turns.
const MEASURE: Duration = Duration::from_secs(4);
const TURNS: u32 = 4;

/// The width of the model's input.
const FEATURES: usize = 32;

/// Where the endpoint's requests go.
const INVOCATIONS: &str = "/endpoints/longshore/invocations";

/// A way to a model: whom to ask, and what.
struct Way<'a> {
    asked: &'a Server,
    request: Vec<u8>,
}

pub fn run() {
    println!(
        "Model: {FEATURES}-64-8 perceptron, 11 KB, one row of JSON. The containers run beside the endpoint (`--container`), so \
         that each process's CPU time is its own.\n"
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
    let direct = Way {
        request: bodies::json_to("/invocations", &[], 1, FEATURES),
        asked: &single,
    };
    let one = Server::endpoint(&["--container", &format!("a=http://{}", single.address())]);
    let through = Way {
        request: bodies::json_to(INVOCATIONS, &[], 1, FEATURES),
        asked: &one,
    };
    through.wait();
    compare("one model", &direct, &through);

    let cache = tempfile::tempdir().expect("a folder");
    let root = cache.path().to_str().expect("a UTF-8 name");
    // Where the endpoint links the models to, the container reads them.
    let many = Server::start_with(&["--multi-model", "--models-root", root], &[]);
    let attached = format!("a=http://{}", many.address());
    let place = folder.strip_suffix("/mlp").expect("its folder");
    let multi = Server::endpoint(&["--cache-dir", root, "--multi-model", place, "--container", &attached]);
    let through = Way {
        request: bodies::json_to(INVOCATIONS, &[("X-Amzn-SageMaker-Target-Model", "mlp")], 1, FEATURES),
        asked: &multi,
    };
    through.wait();
    let direct = Way {
        request: bodies::json(&many.first_model(), 1, FEATURES),
        asked: &many,
    };
    compare("one of many models", &direct, &through);
}

impl Way<'_> {
    /// Until the endpoint is in service.
    fn wait(&self) {
        let mut connection = self.asked.connect();
        for _ in 0..1000 {
            if connection.ask(&self.request).0 == 200 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the endpoint does not come to serve");
    }

    fn measure(&self, connections: usize) -> Measured {
        self.asked
            .measure(std::slice::from_ref(&self.request), connections, MEASURE / TURNS)
    }
}

fn compare(what: &str, direct: &Way<'_>, through: &Way<'_>) {
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
