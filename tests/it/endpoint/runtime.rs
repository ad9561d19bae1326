//! The runtime API in front of real containers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use longshore::endpoint::error::RuntimeError;
use longshore::endpoint::fault::Faults;
use longshore::endpoint::fleet::Fleets;
use longshore::endpoint::runtime::{Api, InvocationRequest, InvocationResponse, Runtime, RuntimeConfig};
use longshore::endpoint::spec::{Container, Deployment};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::fleet::setup::{self, container, deployment, in_multi_model_mode, model, variant};
use crate::harness::{Models, scale};

const MODEL: &str = "x-amzn-sagemaker-target-model";

/// A runtime API with one endpoint, `shop`.
struct Shop {
    runtime: Arc<Runtime>,
    fleets: Arc<Fleets>,
    folder: TempDir,
}

impl Shop {
    async fn open(containers: impl IntoIterator<Item = Container>) -> Self {
        let folder = tempfile::Builder::new().prefix("longshore-shop-").tempdir().unwrap();
        let fleets = setup::settings(folder.path());
        let store = fleets.store.clone();
        let fleets = Arc::new(Fleets::start(fleets).unwrap());
        let deployed: Deployment = deployment("shop", [variant("blue", 1)], model(containers));
        fleets.deploy(deployed).await.unwrap();
        let (settings, faults) = (
            RuntimeConfig::new(store, (folder.path().join("fetched"), 1 << 30)),
            Arc::new(Faults::default()),
        );
        let runtime = Runtime::new(settings, Arc::clone(&fleets), faults, Handle::current()).unwrap();
        Self {
            runtime,
            fleets,
            folder,
        }
    }

    async fn invoke(&self, headers: &[(&str, &str)], body: String) -> Result<InvocationResponse, RuntimeError> {
        let header = |name: &str| {
            let found = headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_bytes())
        };
        let request = InvocationRequest::read(Api::Invoke, header).unwrap();
        self.runtime.invoke("shop", request, Bytes::from(body)).await
    }

    async fn answer(&self, headers: &[(&str, &str)], body: &str) -> String {
        let response = self.invoke(headers, body.to_owned()).await.unwrap();
        String::from_utf8(response.body.to_vec()).unwrap()
    }

    /// Kills the first container. A request in flight may fail with it.
    async fn kill(&self) {
        let fleet = self.fleets.get("shop").unwrap();
        let instances = fleet.variants()[0].instances();
        let container = &instances[0].containers()[0];
        let generation = container.up().unwrap().generation;
        let lost = container.lost(generation);
        container.kill();
        lost.await;
    }

    async fn close(self) {
        self.fleets.shutdown().await;
        drop(self.folder);
    }
}

/// A container in multi-model mode with the models root of `models`.
fn many(models: &Models) -> Container {
    let mut container = in_multi_model_mode("model");
    container.model_data_url = Some(models.root().display().to_string());
    container
}

#[tokio::test]
async fn models_share_the_memory_of_a_few_and_each_answer_is_right() {
    const MODELS: usize = 16;
    let models = Models::new();
    for index in 0..MODELS {
        models.place_big(&format!("big{index}"));
    }
    let mut container = many(&models);
    let limit = ("LONGSHORE_MEMORY_LIMIT".to_owned(), "120MiB".to_owned());
    container.environment.extend([limit]);
    let shop = Shop::open([container]).await;
    let body = serde_json::json!({"instances": [vec![1.0; 1024]]}).to_string();
    let clients = (0..8_usize).map(|client| {
        let (shop, body) = (&shop, &body);
        async move {
            for request in 0..8 {
                let model = format!("big{}/model", (request * 7 + client * 5) % MODELS);
                let answer = shop.answer(&[(MODEL, &model)], body).await;
                assert_eq!(answer, "{\"predictions\":[1048576.0]}", "{model}");
            }
        }
    });
    join_all(clients).await;
    shop.close().await;
}

#[tokio::test]
async fn models_are_loaded_again_after_their_container_was_killed() {
    let models = Models::new();
    for (name, factor) in [("two", 2.0), ("three", 3.0)] {
        models.place_scale(name, factor);
    }
    let shop = Shop::open([many(&models)]).await;
    let body = "{\"instances\":[5]}";
    for round in 0..3 {
        for (name, expected) in [("two/model", "10.0"), ("three/model", "15.0")] {
            let answer = shop.answer(&[(MODEL, name)], body).await;
            assert_eq!(
                answer,
                format!("{{\"predictions\":[{expected}]}}"),
                "{name} in round {round}"
            );
        }
        shop.kill().await;
    }
    let missing = shop.invoke(&[(MODEL, "four/model")], body.to_owned()).await;
    assert!(matches!(missing, Err(RuntimeError::Download { .. })), "{missing:?}");
    shop.close().await;
}

#[tokio::test]
async fn in_a_pipeline_each_container_receives_the_output_of_the_previous_one() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, factor| {
        let folder = folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), scale(factor)).unwrap();
        folder
    };
    let mut first = container("first", place("two", 2.0));
    let csv = ("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT".to_owned(), "text/csv".to_owned());
    first.environment.extend([csv]);
    let second = container("second", place("three", 3.0));
    let shop = Shop::open([first, second]).await;
    let headers = [("content-type", "text/csv"), ("accept", "application/json")];
    assert_eq!(shop.answer(&headers, "5\n7").await, "{\"predictions\":[30.0,42.0]}");
    let refused = shop
        .invoke(&[("content-type", "text/csv"), ("accept", "image/png")], "5".to_owned())
        .await;
    let Err(RuntimeError::Model { container, status, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((container.as_str(), status), ("second", 406));
    shop.close().await;
}
