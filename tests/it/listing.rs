//! Paging of `GET /models` (MM-10).

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Builder, Server, Stop, in_parallel};

/// Returns names that sort by their numbers.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("model-{index:04}")).collect()
}

/// Starts a server with `count` models, each with a different factor.
fn with_models(count: usize) -> (Server, Vec<String>) {
    let server = Builder::multi().start();
    let names = names(count);
    let indices: Vec<usize> = (0..count).collect();
    in_parallel(8, &indices, |&index| {
        let url = server.models().place_scale(&names[index], index as f32);
        server.load(&names[index], &url).expect(200);
    });
    (server, names)
}

fn names_of(page: &Value) -> Vec<String> {
    let models = page["models"].as_array().unwrap();
    models
        .iter()
        .map(|model| model["modelName"].as_str().unwrap().to_owned())
        .collect()
}

/// Follows the tokens to the last page, and calls `between` before every page except the first.
fn pages(server: &Server, limit: Option<usize>, mut between: impl FnMut()) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut parameters: Vec<String> = limit.iter().map(|limit| format!("limit={limit}")).collect();
    loop {
        let page = server.list(&format!("?{}", parameters.join("&")));
        pages.push(names_of(&page));
        assert!(pages.len() < 1000, "the pages never end");
        // At the end the token is absent, neither null nor empty.
        let Some(token) = page.get("nextPageToken") else {
            return pages;
        };
        parameters.truncate(usize::from(limit.is_some()));
        parameters.push(format!("next_page_token={}", token.as_str().unwrap()));
        between();
    }
}

fn sizes(pages: &[Vec<String>]) -> Vec<usize> {
    pages.iter().map(Vec::len).collect()
}

#[test]
fn two_hundred_and_fifty_models_are_listed_in_pages_answer_and_are_unloaded() {
    let (server, names) = with_models(250);
    let all = pages(&server, None, || {});
    assert_eq!(sizes(&all), [100, 100, 50]);
    assert_eq!(all.concat(), names);

    let first: Vec<&String> = names[..100].iter().collect();
    for query in [
        "?limit=0",
        "?limit=-1",
        "?limit=abc",
        "?limit=",
        "?limit=1000",
        "?limit=101",
        "?limit=1e2",
        "?other=1",
    ] {
        let page = server.list(query);
        assert_eq!(names_of(&page).iter().collect::<Vec<_>>(), first, "{query}");
        assert!(page["nextPageToken"].is_string(), "{query}");
    }
    assert_eq!(sizes(&pages(&server, Some(7), || {})), [vec![7; 35], vec![5]].concat());
    assert_eq!(sizes(&pages(&server, Some(50), || {})), [50; 5]);
    assert_eq!(sizes(&pages(&server, Some(1), || {})), [1; 250]);
    for token in [
        "",
        "0",
        "-1",
        "100",
        "abc",
        "after-",
        "after-zz",
        "%FF",
        "a%00b",
        "%E2%98%83",
    ] {
        let page = server.list(&format!("?next_page_token={token}"));
        assert_eq!(names_of(&page).iter().collect::<Vec<_>>(), first, "{token}");
    }

    let indices: Vec<usize> = (0..names.len()).collect();
    in_parallel(8, &indices, |&index| server.assert_scales(&names[index], index as f32));
    in_parallel(8, &names, |name| server.unload(name).expect(200));
    assert_eq!(server.list(""), json!({"models": []}));
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_full_last_page_is_not_followed_by_an_empty_one() {
    let (server, names) = with_models(200);
    assert_eq!(sizes(&pages(&server, None, || {})), [100, 100]);
    in_parallel(8, &names[100..], |name| server.unload(name).expect(200));
    assert_eq!(sizes(&pages(&server, None, || {})), [100]);
    assert_eq!(sizes(&pages(&server, Some(50), || {})), [50, 50]);
    assert_eq!(sizes(&pages(&server, Some(100), || {})), [100]);
}

#[test]
fn paging_continues_after_the_model_of_the_token_is_unloaded() {
    let (server, names) = with_models(10);
    let mut unloaded = 0;
    let all = pages(&server, Some(3), || {
        // Unload the last model of the page that was just read.
        server.unload(&names[unloaded * 3 + 2]).expect(200);
        unloaded += 1;
    });
    assert_eq!(all.concat(), names);
}

#[test]
fn paging_lists_each_remaining_model_once_during_loads_and_unloads() {
    let (server, names) = with_models(120);
    let comes_and_goes = |index: usize| index.is_multiple_of(3);
    let survivors: BTreeSet<&String> = names
        .iter()
        .enumerate()
        .filter(|(index, _)| !comes_and_goes(*index))
        .map(|(_, name)| name)
        .collect();
    let stop = Stop::default();
    thread::scope(|scope| {
        let (server, stop_churn) = (&server, stop.on_drop());
        let churn = scope.spawn(|| {
            while !stop.raised() {
                for (_, name) in names.iter().enumerate().filter(|(index, _)| comes_and_goes(*index)) {
                    let url = server.describe(name).expect(200).json()["modelUrl"]
                        .as_str()
                        .unwrap()
                        .to_owned();
                    server.unload(name).expect(200);
                    server.load(name, &url).expect(200);
                }
            }
        });
        for walk in 0..40 {
            let seen = pages(server, Some(7), || {}).concat();
            let unique: BTreeSet<&String> = seen.iter().collect();
            assert_eq!(unique.len(), seen.len(), "walk {walk} repeats a name");
            assert!(seen.is_sorted(), "walk {walk} is out of order");
            assert!(survivors.is_subset(&unique), "walk {walk} skips a name");
        }
        drop(stop_churn);
        churn.join().unwrap();
    });
}
