use std::sync::Arc;

use super::*;
use crate::endpoint::spec::Container;
use crate::endpoint::testing::{FOREVER, FakeContainer, FakeResponse, SeenRequest};

fn client() -> Client {
    Client::new(FOREVER).unwrap()
}

fn container(
    hostname: &str,
    answer: impl Fn(&SeenRequest) -> FakeResponse + Send + Sync + 'static,
) -> Arc<FakeContainer> {
    FakeContainer::start(Container::new(hostname), move |seen| Some(answer(seen)))
}

fn stages(fakes: &[&Arc<FakeContainer>]) -> Vec<PipelineStage> {
    let stage = |fake: &&Arc<FakeContainer>| PipelineStage {
        target: Arc::clone(*fake) as Arc<dyn Target>,
        platform: None,
        fatal: false,
    };
    fakes.iter().map(stage).collect()
}

fn input(body: &'static str) -> PipelineInput {
    let header = |name: &'static str, value: &'static str| (name.parse().unwrap(), value.parse().unwrap());
    PipelineInput {
        headers: HeaderMap::from_iter([header("x-amzn-sagemaker-custom-attributes", "k=v")]),
        content_type: Some(HeaderValue::from_static("text/csv")),
        accept: Some(HeaderValue::from_static("application/x-npy")),
        model: None,
        body: Bytes::from_static(body.as_bytes()),
    }
}

fn limits() -> PipelineLimits {
    PipelineLimits {
        between: 10,
        reply: 100,
        asynchronous: false,
        deadline: Instant::now() + FOREVER,
    }
}

#[tokio::test]
async fn each_container_gets_the_previous_body_and_only_the_last_gets_accept() {
    let first = container("a", |_| {
        FakeResponse::new(200, "one").with("content-type", "text/csv; charset=utf-8")
    });
    let second = container("b", |_| FakeResponse::new(200, "two"));
    let third = container("c", |_| {
        FakeResponse::new(200, "three").with("content-type", "application/x-npy")
    });
    let reply = run(&client(), &stages(&[&first, &second, &third]), input("0"), limits())
        .await
        .unwrap();
    assert_eq!(
        (&reply.body[..], reply.headers["content-type"].to_str().unwrap()),
        (&b"three"[..], "application/x-npy")
    );
    let table = [
        (first, "0", Some("text/csv"), "*/*"),
        (second, "one", Some("text/csv; charset=utf-8"), "*/*"),
        (third, "two", None, "application/x-npy"),
    ];
    for (fake, body, content_type, accept) in table {
        let seen = fake.seen();
        let [seen] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(seen.line(), "POST /invocations");
        assert_eq!(seen.body, body.as_bytes());
        assert_eq!(seen.header("content-type"), content_type);
        assert_eq!(seen.header("accept"), Some(accept));
        assert_eq!(seen.header("x-amzn-sagemaker-custom-attributes"), Some("k=v"));
        let mut names: Vec<_> = seen.headers.keys().map(String::as_str).collect();
        names.retain(|name| !matches!(*name, "host" | "content-length" | "accept" | "content-type"));
        assert_eq!(names, ["x-amzn-sagemaker-custom-attributes"]);
    }
}

#[tokio::test]
async fn a_failing_container_ends_the_request_and_the_error_names_it() {
    let first = container("a", |_| FakeResponse::new(200, "one"));
    let second = container("b", |_| FakeResponse::new(415, "no"));
    let third = container("c", |_| FakeResponse::new(200, "three"));
    let error = run(&client(), &stages(&[&first, &second, &third]), input("0"), limits())
        .await
        .unwrap_err();
    let expected = RuntimeError::Model {
        container: "b".to_owned(),
        status: 415,
        message: "no".to_owned(),
    };
    assert_eq!(error, expected);
    assert!(third.seen().is_empty());
}

#[tokio::test]
async fn bodies_between_containers_have_their_own_limit() {
    let long = |hostname| container(hostname, |_| FakeResponse::new(200, "x".repeat(11)));
    let short = container("b", |_| FakeResponse::new(200, "two"));
    let error = run(&client(), &stages(&[&long("a"), &short]), input("0"), limits())
        .await
        .unwrap_err();
    let expected = RuntimeError::ReplyTooLarge {
        container: "a".to_owned(),
        status: 200,
        limit: 10,
        next: Some("b".to_owned()),
    };
    assert_eq!(error, expected);
    // The response to the client has a higher limit.
    let last = run(&client(), &stages(&[&short, &long("c")]), input("0"), limits()).await;
    assert_eq!(last.unwrap().body.len(), 11);
    let larger = container("d", |_| FakeResponse::Chunked(vec!["0123456789abcdef"; 7], true));
    let error = run(&client(), &stages(&[&larger]), input("0"), limits())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::ReplyTooLarge {
                limit: 100,
                next: None,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn all_containers_share_one_deadline() {
    let first = container("a", |_| FakeResponse::new(200, "one"));
    let slow = container("b", |_| FakeResponse::Stall);
    let bounds = PipelineLimits {
        deadline: Instant::now() + std::time::Duration::from_millis(300),
        ..limits()
    };
    let error = run(&client(), &stages(&[&first, &slow]), input("0"), bounds)
        .await
        .unwrap_err();
    let expected = RuntimeError::TimedOut {
        container: "b".to_owned(),
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_broken_connection_is_an_error_and_the_call_is_not_repeated() {
    for answer in [FakeResponse::Reset, FakeResponse::Chunked(vec!["a"], false)] {
        let broken = container("a", move |_| answer.clone());
        let error = run(&client(), &stages(&[&broken]), input("0"), limits())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, RuntimeError::NoAnswer { container, .. } if container == "a"),
            "{error:?}"
        );
        assert_eq!(broken.seen().len(), 1);
    }
}

#[tokio::test]
async fn an_error_whose_body_is_too_long_keeps_its_status() {
    let long = container("a", |_| FakeResponse::new(500, vec![b'x'; (1 << 20) + 1]));
    let error = run(&client(), &stages(&[&long]), input("0"), limits())
        .await
        .unwrap_err();
    let expected = RuntimeError::Model {
        container: "a".to_owned(),
        status: 500,
        message: "could not load the entire response body".to_owned(),
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn redirects_are_errors() {
    let elsewhere = container("a", |_| FakeResponse::new(302, "").with("location", "/ping"));
    let error = run(&client(), &stages(&[&elsewhere]), input("0"), limits())
        .await
        .unwrap_err();
    assert!(matches!(error, RuntimeError::Model { status: 302, .. }), "{error:?}");
    assert_eq!(elsewhere.seen().len(), 1);
}
