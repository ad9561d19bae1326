//! Tests of the platform with a fake container.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::archive::UnpackLimits;
use crate::endpoint::spec::Container;
use crate::endpoint::testing::{FOREVER, FakeContainer, FakeResponse};
use crate::store::{self, Environment};

struct Scene {
    platform: Arc<Platform>,
    fake: Arc<FakeContainer>,
    _store: TempDir,
}

/// A store with the models m0 to m39.
fn scene_with(fake: Arc<FakeContainer>, load_wait: Duration) -> Scene {
    let store = tempfile::tempdir().unwrap();
    for index in 0..40 {
        let folder = store.path().join(format!("models/m{index}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), "x").unwrap();
    }
    let settings = store::StoreConfig {
        url: store.path().join("models").display().to_string(),
        environment: Environment::default(),
        timeout: FOREVER,
        retries: 0,
        downloads: 4,
        bounds: UnpackLimits {
            bytes: 1 << 20,
            entries: 10,
            ratio: 100,
        },
        names_bind: true,
        revalidate: FOREVER,
    };
    let disk = store::Disk::open(&store.path().join("cache"), 1 << 20).unwrap();
    let target = fake.clone() as Arc<dyn Target>;
    let parts = PlatformParts {
        target: Arc::downgrade(&target),
        store: Arc::new(Store::open(settings, &disk).unwrap()),
        client: Client::new(FOREVER).unwrap(),
        background: Handle::current(),
    };
    let settings = MultiModelConfig {
        load_wait,
        load_timeout: FOREVER,
        unload_timeout: FOREVER,
    };
    Scene {
        platform: Platform::new(&*fake, parts, settings),
        fake,
        _store: store,
    }
}

fn scene(fake: Arc<FakeContainer>) -> Scene {
    scene_with(fake, FOREVER)
}

impl Scene {
    async fn invoke(&self, model: &str) -> Result<(u16, String), RuntimeError> {
        let name = Name::parse(model).unwrap();
        let deadline = Instant::now() + FOREVER;
        let invocation = Invocation {
            model: &name,
            headers: &HeaderMap::new(),
            body: &Bytes::from_static(b"1"),
            fatal: false,
        };
        let reply = self.platform.invoke(invocation, 1000, deadline).await?;
        Ok((reply.status, String::from_utf8(reply.body.to_vec()).unwrap()))
    }

    async fn answers(&self, model: &str) {
        assert_eq!(self.invoke(model).await, Ok((200, format!("{model} 1"))));
    }
}

#[tokio::test]
async fn a_model_is_loaded_once_and_then_invoked() {
    let scene = scene(FakeContainer::models(2, |_| None));
    join_all((0..8).map(|_| scene.answers("m0"))).await;
    let lines = scene.fake.lines();
    assert_eq!(lines[0], "POST /models m0");
    assert_eq!(lines.len(), 9);
    assert!(
        lines[1..].iter().all(|line| line == "POST /models/*/invoke m0"),
        "{lines:?}"
    );
    assert!(scene.platform.has(&Name::parse("m0").unwrap()));
}

#[tokio::test]
async fn after_a_507_the_least_recently_used_model_is_unloaded_and_the_load_repeated() {
    let scene = scene(FakeContainer::models(2, |_| None));
    for model in ["m0", "m1", "m0"] {
        scene.answers(model).await;
    }
    scene.fake.seen();
    scene.answers("m2").await;
    let expected = [
        "POST /models m2",
        "DELETE /models/* m1",
        "POST /models m2",
        "POST /models/*/invoke m2",
    ];
    assert_eq!(scene.fake.lines(), expected);
    assert_eq!((scene.fake.loaded(), scene.fake.folders()), (2, 2));
}

#[tokio::test]
async fn each_further_507_unloads_twice_as_many_models_until_the_load_fits() {
    // The fifth model is as large as all the others.
    let tries = AtomicUsize::new(0);
    let script = move |seen: &crate::endpoint::testing::SeenRequest| {
        let large = seen.line() == "POST /models m4" && tries.fetch_add(1, Ordering::Relaxed) < 3;
        large.then(|| FakeResponse::new(507, "full"))
    };
    let scene = scene(FakeContainer::models(9, script));
    for model in ["m0", "m1", "m2", "m3"] {
        scene.answers(model).await;
    }
    scene.fake.seen();
    scene.answers("m4").await;
    let lines = scene.fake.lines();
    let steps: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    // One model, then two, then the remaining one.
    assert_eq!(
        steps,
        [
            "POST", "DELETE", "POST", "DELETE", "DELETE", "POST", "DELETE", "POST", "POST"
        ]
    );
    assert_eq!(lines[1], "DELETE /models/* m0");
}

#[tokio::test]
async fn a_model_that_never_fits_returns_the_containers_507() {
    let scene = scene(FakeContainer::models(0, |_| None));
    let expected = RuntimeError::Model {
        container: "model".to_owned(),
        status: 507,
        message: "full".to_owned(),
    };
    assert_eq!(scene.invoke("m0").await, Err(expected));
    assert_eq!(scene.fake.folders(), 0);
    assert!(!scene.platform.has(&Name::parse("m0").unwrap()));
}

#[tokio::test]
async fn eight_clients_get_correct_answers_from_forty_models_in_memory_for_eight() {
    let scene = Arc::new(scene(FakeContainer::models(8, |_| None)));
    let clients = (0..8_usize).map(|client| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move {
            for request in 0..40 {
                scene.answers(&format!("m{}", (request * 7 + client * 5) % 40)).await;
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    assert!(scene.fake.loaded() <= 8);
}

#[tokio::test]
async fn clients_of_different_models_share_memory_for_one() {
    let scene = Arc::new(scene(FakeContainer::models(1, |_| None)));
    let clients = (0..6_usize).map(|client| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move {
            for _ in 0..5 {
                scene.answers(&format!("m{client}")).await;
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_409_for_a_load_counts_as_loaded() {
    let scene = scene(FakeContainer::models(2, |seen| {
        let load = seen.path == "/models";
        let invoke = seen.path.ends_with("/invoke");
        match (load, invoke) {
            (true, _) => Some(FakeResponse::new(409, "there")),
            (_, true) => Some(FakeResponse::new(200, "m0 1")),
            _ => None,
        }
    }));
    scene.answers("m0").await;
}

#[tokio::test]
async fn a_failed_load_returns_the_containers_error_and_the_next_request_tries_again() {
    let broken = AtomicUsize::new(0);
    let scene = scene(FakeContainer::models(2, move |seen| {
        let first = seen.path == "/models" && broken.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| FakeResponse::new(400, "no model"))
    }));
    let expected = RuntimeError::Model {
        container: "model".to_owned(),
        status: 400,
        message: "no model".to_owned(),
    };
    assert_eq!(scene.invoke("m0").await, Err(expected));
    assert_eq!(scene.fake.folders(), 0);
    scene.answers("m0").await;
}

#[tokio::test]
async fn a_model_that_is_not_in_the_store_is_a_download_error() {
    let scene = scene(FakeContainer::models(2, |_| None));
    let error = scene.invoke("missing").await.unwrap_err();
    assert!(matches!(error, RuntimeError::Download { .. }), "{error:?}");
    assert_eq!(scene.fake.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn after_a_restart_models_are_loaded_again() {
    let scene = scene(FakeContainer::models(4, |_| None));
    scene.answers("m0").await;
    scene.answers("m1").await;
    scene.fake.start_again();
    scene.fake.seen();
    scene.answers("m1").await;
    assert_eq!(scene.fake.lines(), ["POST /models m1", "POST /models/*/invoke m1"]);
    assert_eq!(scene.fake.loaded(), 1);
}

#[tokio::test]
async fn after_an_unnoticed_restart_a_404_leads_to_a_new_load() {
    let scene = scene(FakeContainer::models(4, |_| None));
    scene.answers("m0").await;
    scene.fake.forget_all();
    scene.fake.seen();
    scene.answers("m0").await;
    let expected = [
        "POST /models/*/invoke m0",
        "POST /models m0",
        "POST /models/*/invoke m0",
    ];
    assert_eq!(scene.fake.lines(), expected);
}

#[tokio::test]
async fn a_second_404_is_returned_to_the_client() {
    let scene = scene(FakeContainer::models(4, |seen| {
        seen.path
            .ends_with("/invoke")
            .then(|| FakeResponse::new(404, "unknown"))
    }));
    assert_eq!(scene.invoke("m0").await, Ok((404, "unknown".to_owned())));
    let loads = scene
        .fake
        .lines()
        .iter()
        .filter(|line| *line == "POST /models m0")
        .count();
    assert_eq!(loads, 2);
}

#[tokio::test]
async fn a_507_of_an_invocation_unloads_other_models_and_repeats_it_once() {
    let full = AtomicUsize::new(0);
    let scene = scene(FakeContainer::models(4, move |seen| {
        let invoke = seen.line() == "POST /models/*/invoke m2";
        (invoke && full.fetch_add(1, Ordering::Relaxed) != 1).then(|| FakeResponse::new(507, "no memory"))
    }));
    scene.answers("m0").await;
    scene.answers("m1").await;
    scene.fake.seen();
    scene.answers("m2").await;
    let expected = [
        "POST /models m2",
        "POST /models/*/invoke m2",
        "DELETE /models/* m0",
        "POST /models/*/invoke m2",
    ];
    assert_eq!(scene.fake.lines(), expected);
    // The container is always full now: the second 507 is returned.
    assert_eq!(scene.invoke("m2").await, Ok((507, "no memory".to_owned())));
}

#[tokio::test]
async fn without_a_cache_a_model_is_unloaded_after_each_request() {
    let mut spec = Container::new("model");
    spec.mode = Mode::MultiModel { cache: false };
    let scene = scene(FakeContainer::with_capacity(spec, 4, |_| None));
    scene.answers("m0").await;
    while scene.platform.has(&Name::parse("m0").unwrap()) || scene.fake.folders() > 0 {
        tokio::task::yield_now().await;
    }
    scene.answers("m0").await;
    let lines = scene.fake.lines();
    let cycle = ["POST /models m0", "POST /models/*/invoke m0", "DELETE /models/* m0"];
    assert_eq!(lines[..3], cycle);
    assert_eq!(lines[3..5], cycle[..2]);
}

#[tokio::test]
async fn a_request_that_waits_too_long_gets_model_not_ready_and_the_load_continues() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let fake = FakeContainer::models(4, move |seen| {
        if seen.path == "/models" {
            released.lock().unwrap().recv().unwrap();
        }
        None
    });
    let mut scene = scene_with(fake, FOREVER);
    // Requests do not wait at all.
    Arc::get_mut(&mut scene.platform).unwrap().settings.load_wait = Duration::ZERO;
    let not_ready = RuntimeError::ModelNotReady { model: "m0".to_owned() };
    assert_eq!(scene.invoke("m0").await, Err(not_ready.clone()));
    assert_eq!(scene.invoke("m0").await, Err(not_ready));
    release.send(()).unwrap();
    while scene.invoke("m0").await.is_err() {
        tokio::task::yield_now().await;
    }
    scene.answers("m0").await;
    let loads = scene
        .fake
        .lines()
        .iter()
        .filter(|line| *line == "POST /models m0")
        .count();
    assert_eq!(loads, 1);
}

#[tokio::test]
async fn a_request_waits_for_a_restarting_container() {
    let scene = scene(FakeContainer::models(4, |_| None));
    scene.answers("m0").await;
    scene.fake.stop();
    let start = async {
        tokio::task::yield_now().await;
        scene.fake.start_again();
    };
    tokio::join!(scene.answers("m0"), start);
    // The container has ended, but its keeper has not noticed yet.
    scene.fake.vanish();
    let start = async {
        tokio::task::yield_now().await;
        scene.fake.start_again();
    };
    tokio::join!(scene.answers("m0"), start);
}
