//! Models with a tokenizer next to them.

use serde_json::json;

use super::*;
use crate::codec::testing::{input, output, signature};
use crate::engine::LoadError;
use crate::manifest::{Manifest, TokenizerFile};
use crate::tensor::DataType;

/// A tokenizer that knows one word.
fn tokenizer() -> String {
    json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}).to_string()
}

/// The manifest of an artifact with the file `json` next to the model.
fn manifest(json: &str) -> Manifest {
    let mut manifest: Manifest = serde_json::from_value(json!({"text": {}})).unwrap();
    manifest.hints.tokenizer = Some(TokenizerFile {
        hash: blake3::hash(json.as_bytes()).to_string(),
        path: "tokenizer.json".to_owned(),
        bytes: Some(json.to_owned().into()),
    });
    manifest
}

fn text_model(name: &str, json: &str) -> TestArtifact {
    TestArtifact {
        manifest: manifest(json),
        signature: signature(
            &[input("input_ids", DataType::I64, &[-1, -1])],
            &[output("logits", DataType::F32, &[-1, 2])],
        ),
        ..TestArtifact::of(name)
    }
}

fn is_no_room(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Load { source, .. } if matches!(**source, LoadError::NoRoom(_)))
}

#[tokio::test]
async fn models_with_equal_tokenizers_share_one_until_the_last_is_unloaded() {
    let server = Server::new([]);
    for name in ["a", "b"] {
        server.engine.put(&path(name), text_model(name, &tokenizer()));
    }
    server.load("a").await.unwrap();
    let bytes = server.engine.other_bytes();
    assert!(bytes > 0);
    server.load("b").await.unwrap();
    assert_eq!(server.engine.other_bytes(), bytes);
    server.unload("a").await.unwrap();
    assert_eq!(server.engine.other_bytes(), bytes);
    server.unload("b").await.unwrap();
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_without_memory_for_the_tokenizer_gives_the_model_back() {
    let server = Server::new([]);
    server.engine.put(&path("a"), text_model("a", &tokenizer()));
    server.engine.refuse_shared(1);
    assert!(is_no_room(&server.load("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().unloaded, 1);
    server.assert_not_found("a").await;
    server.load("a").await.unwrap();
    assert_eq!(server.list(), ["a"]);
}

#[tokio::test]
async fn a_load_with_a_damaged_tokenizer_gives_the_model_back() {
    let server = Server::new([]);
    server.engine.put(&path("a"), text_model("a", "{}"));
    let error = server.load("a").await.unwrap_err();
    assert!(matches!(error, CatalogError::Tokenizer { .. }), "{error:?}");
    server.assert_not_found("a").await;
    server.assert_balanced();
}

/// A server that lists the text model `a` since a restart.
async fn restarted() -> Server {
    let mut manifest = manifest(&tokenizer());
    let file = manifest.hints.tokenizer.as_mut().unwrap();
    file.bytes = None;
    let recorded = Record {
        manifest: Some(serde_json::to_string(&manifest).unwrap()),
        ..record("a")
    };
    let server = Server::restarted([recorded]).await;
    server.engine.put(&path("a"), text_model("a", &tokenizer()));
    server
}

#[tokio::test]
async fn a_text_model_without_memory_for_its_tokenizer_stays_listed() {
    let server = restarted().await;
    server.engine.keep(&tokenizer());
    server.engine.refuse_shared(1);
    assert!(is_no_room(&server.get("a").await.unwrap_err()));
    assert_eq!(server.list(), ["a"]);
    assert_eq!(server.journal.lines(), [""; 0]);
    assert_eq!(server.engine.counts().unloaded, 1);
    server.get("a").await.unwrap();
    assert_eq!(server.engine.counts().loaded, 2);
}

#[tokio::test]
async fn a_text_model_whose_tokenizer_is_gone_leaves_the_list() {
    let server = restarted().await;
    assert!(is_not_loaded(&server.get("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().unloaded, 1);
    assert_eq!(server.journal.lines(), ["-a"]);
    server.assert_balanced();
}
