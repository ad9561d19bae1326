//! Tests of the choice of variant and instance.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use super::*;

fn named(text: &'static str) -> Arc<FakeContainer> {
    answering("model", move |_| FakeResponse::new(200, text))
}

#[tokio::test]
async fn variants_take_turns_by_weight_or_are_chosen_by_name() {
    let scene = scene(&[], |settings| settings.deal = Deal::Even);
    let (blue, green, grey) = (named("blue"), named("green"), named("grey"));
    let one = |name, weight, fake| variant(name, weight, Execution::Serial, &[fake]);
    scene
        .serve(vec![
            one("blue", 3.0, &blue),
            one("green", 1.0, &green),
            one("grey", 0.0, &grey),
        ])
        .await;
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(scene.invoke(&[], "").await.text().to_owned());
    }
    assert_eq!(order, ["blue", "blue", "green", "blue"]);
    let got = scene.invoke(&[("x-amzn-sagemaker-target-variant", "grey")], "").await;
    assert_eq!(got.text(), "grey");
    assert_eq!(got.header("x-amzn-invoked-production-variant"), Some("grey"));
}

#[tokio::test]
async fn variants_are_drawn_by_weight_and_a_seed_repeats_the_draws() {
    let drawn = async |seed| {
        let scene = scene(&[], |settings| settings.deal = Deal::random(seed));
        let (blue, green, grey) = (named("blue"), named("green"), named("grey"));
        let one = |name, weight, fake| variant(name, weight, Execution::Serial, &[fake]);
        let variants = [("blue", 3.0, &blue), ("green", 1.0, &green), ("grey", 0.0, &grey)];
        let variants = variants.map(|(name, weight, fake)| one(name, weight, fake));
        scene.serve(variants.into()).await;
        let mut order = Vec::new();
        for _ in 0..100 {
            order.push(scene.invoke(&[], "").await.text().to_owned());
        }
        order
    };
    let seeded = drawn(Some(7)).await;
    assert_eq!(drawn(Some(7)).await, seeded);
    assert_ne!(drawn(None).await, drawn(None).await);
    let count = |name: &str| seeded.iter().filter(|drawn| *drawn == name).count();
    assert_eq!((count("blue") + count("green"), count("grey")), (100, 0));
    assert!((55..=92).contains(&count("blue")), "{}", count("blue"));
    // With `--deal even`, green would never be chosen twice in a row.
    assert!(seeded.windows(2).any(|pair| pair == ["green", "green"]), "{seeded:?}");
}

#[tokio::test]
async fn an_invocation_matches_the_case_of_the_endpoints_name() {
    let scene = scene(&[], |_| ());
    scene.serve_one(&named("blue")).await;
    let got = scene.post("/endpoints/SHOP/invocations", &[], "").await;
    let (status, kind, message) = got.error();
    assert_eq!((status, kind), (400, "ValidationError"));
    assert!(
        message.starts_with("Endpoint SHOP of account 000000000000 not found. ") && message.ends_with("endpoint shop."),
        "{message}"
    );
}

#[tokio::test]
async fn an_endpoint_without_weights_is_unavailable_and_a_removed_one_unknown() {
    let scene = scene(&[], |_| ());
    scene
        .serve(vec![variant("blue", 0.0, Execution::Serial, &[&named("blue")])])
        .await;
    let got = scene.invoke(&[], "").await;
    assert_eq!((got.error().0, got.error().1), (503, "ServiceUnavailable"));
    scene.fleets.remove("shop").await;
    assert_eq!(scene.invoke(&[], "").await.status.as_u16(), 400);
}

#[tokio::test]
async fn a_session_stays_with_its_instance() {
    let scene = scene(&[], |settings| settings.deal = Deal::Even);
    let session = |id: &'static str| {
        answering("model", move |seen| match seen.header("x-amzn-sagemaker-session-id") {
            Some("NEW_SESSION") => {
                let value = format!("{id}; Expires=2999-01-01T00:00:00Z");
                FakeResponse::new(200, id).with("x-amzn-sagemaker-new-session-id", value)
            }
            _ => FakeResponse::new(200, id),
        })
    };
    let (one, two) = (session("s1"), session("s2"));
    let on = |name, fake| variant(name, 1.0, Execution::Serial, &[fake]);
    scene.serve(vec![on("blue", &one), on("green", &two)]).await;
    let name = "x-amzn-sagemaker-session-id";
    for id in ["s1", "s2"] {
        let opened = scene.invoke(&[(name, "NEW_SESSION")], "").await;
        assert_eq!(opened.text(), id);
        assert!(
            opened
                .header("x-amzn-sagemaker-new-session-id")
                .unwrap()
                .starts_with(id)
        );
    }
    for id in ["s2", "s2", "s1", "s2", "s1"] {
        assert_eq!(scene.invoke(&[(name, id)], "").await.text(), id);
    }
}

#[tokio::test]
async fn a_request_completes_on_the_fleet_it_started_with() {
    let scene = scene(&[], |_| ());
    let (came, has_come) = channel();
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let old = answering("model", move |_| {
        came.send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        FakeResponse::new(200, "old")
    });
    scene.serve_one(&old).await;
    let first = scene.invoke(&[], "");
    let rest = async {
        wait_for(&has_come).await;
        scene.serve_one(&named("new")).await;
        assert_eq!(scene.invoke(&[], "").await.text(), "new");
        go.send(()).unwrap();
    };
    let (first, ()) = tokio::join!(first, rest);
    assert_eq!(first.text(), "old");
}

/// Waits without blocking other tasks of this thread.
async fn wait_for(receiver: &Receiver<()>) {
    while receiver.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
}
