//! Tests of streamed responses.

use super::*;
use crate::endpoint::event_stream::{StreamFault, model_stream_error, payload_part};

const PATH: &str = "/endpoints/shop/invocations-response-stream";

async fn serving(answer: impl Fn(&SeenRequest) -> FakeResponse + Send + Sync + 'static) -> (Scene, Arc<FakeContainer>) {
    let scene = scene(&[], |_| ());
    let fake = answering("model", answer);
    scene.serve_one(&fake).await;
    (scene, fake)
}

/// The payloads of the frames, in order.
fn payloads(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while !frames.is_empty() {
        let number = |at: usize| u32::from_be_bytes(frames[at..at + 4].try_into().unwrap()) as usize;
        let (total, headers) = (number(0), number(4));
        payloads.push(frames[12 + headers..total - 4].to_vec());
        frames = &frames[total..];
    }
    payloads
}

#[tokio::test]
async fn chunks_are_sent_as_frames() {
    let (scene, fake) = serving(|_| FakeResponse::Chunked(vec!["one ", "two ", "three"], true)).await;
    let got = scene
        .post(PATH, &[("x-amzn-sagemaker-accept", "text/plain")], "in")
        .await;
    assert_eq!(got.status.as_u16(), 200);
    assert_eq!(got.header("content-type"), Some("application/vnd.amazon.eventstream"));
    assert_eq!(got.header("x-amzn-sagemaker-content-type"), Some("text/plain"));
    assert_eq!(got.header("x-amzn-invoked-production-variant"), Some("blue"));
    assert_eq!(payloads(&got.body).concat(), b"one two three");
    let seen = &fake.seen()[0];
    assert_eq!(seen.line(), "POST /invocations");
    assert_eq!(seen.header("accept"), Some("text/plain"));
    assert_eq!(
        seen.header("x-amzn-sagemaker-forwarded-api"),
        Some("InvokeEndpointWithResponseStream")
    );
}

#[tokio::test]
async fn an_error_before_the_first_chunk_is_an_ordinary_error_response() {
    let (scene, _) = serving(|_| FakeResponse::new(503, "busy")).await;
    let got = scene.post(PATH, &[], "").await;
    let (status, kind, message) = got.error();
    assert_eq!((status, kind), (424, "ModelError"));
    assert!(message.contains("\"busy\""), "{message}");
    let (scene, _) = serving(|_| FakeResponse::Chunked(Vec::new(), false)).await;
    let got = scene.post(PATH, &[], "").await;
    let (status, kind, _) = got.error();
    assert_eq!((status, kind), (424, "ModelError"));
}

#[tokio::test]
async fn an_error_in_mid_stream_is_a_frame_of_its_own() {
    let (scene, _) = serving(|_| FakeResponse::Chunked(vec!["one"], false)).await;
    let got = scene.post(PATH, &[], "").await;
    assert_eq!(got.status.as_u16(), 200);
    let first = payload_part(b"one");
    assert_eq!(got.body[..first.len()], first[..]);
    let exception = serde_json::from_slice::<Value>(&payloads(&got.body)[1]).unwrap();
    assert_eq!(exception["ErrorCode"], "StreamBroken");
    let message = exception["Message"].as_str().unwrap();
    assert_eq!(
        got.body[first.len()..],
        model_stream_error(StreamFault::Broken, message)[..]
    );
}

#[tokio::test]
async fn an_empty_response_has_no_frames() {
    let (scene, _) = serving(|_| FakeResponse::new(200, "")).await;
    let got = scene.post(PATH, &[], "").await;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
}

#[tokio::test]
async fn multi_model_endpoints_cannot_stream() {
    let scene = scene(&[], |_| ());
    let mut spec = Container::new("model");
    spec.mode = Mode::MultiModel { cache: true };
    spec.model_data_url = Some(scene.folder.path().display().to_string());
    let fake = FakeContainer::with_capacity(spec, 2, |_| None);
    scene.serve_one(&fake).await;
    let got = scene.post(PATH, &[("x-amzn-sagemaker-target-model", "a")], "").await;
    assert!(
        got.error().2.contains("is missing a target model header"),
        "{}",
        got.text()
    );
}
