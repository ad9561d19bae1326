//! Creates the client of a store from its URL and the environment.
//!
//! object_store could read the process's environment by itself; instead it gets the variables of
//! the [`Environment`] that was passed in, under the clouds' own names. object_store does not retry
//! (`tries.rs`), and a request may take any time as long as bytes arrive.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use reqwest::Url;
use reqwest::header::HeaderValue;

use super::bucket::deepest;
use super::environment::Environment;
use super::error::LocationError;
use super::exchange::{ObservingConnector, shown};
use super::location::{Cloud, Location};
use super::{aws, azure, google};
use crate::tls;

/// Time to connect: longer than any healthy network takes, and shorter than a request can wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));

/// The store's objects, and its listings where it has any.
pub(super) struct StoreClient {
    pub objects: Arc<dyn ObjectStore>,
    pub lists: Option<Arc<dyn PaginatedListStore>>,
}

impl StoreClient {
    fn of(store: impl ObjectStore + PaginatedListStore) -> Self {
        let store = Arc::new(store);
        Self {
            objects: store.clone(),
            lists: Some(store),
        }
    }
}

/// Creates a client of the bucket or web server at `location`.
pub(super) fn connect(
    location: &Location,
    environment: &Environment,
    timeout: Duration,
) -> Result<StoreClient, LocationError> {
    tls::provide();
    let wrong = |reason| LocationError::Settings {
        url: location.shown(),
        reason,
    };
    let refused = |error: object_store::Error| wrong(reason(&error));
    match location {
        Location::Bucket {
            cloud: Cloud::Amazon,
            bucket,
            ..
        } => {
            let builder = aws::builder(environment, |http| options(timeout, http))?.with_url(bucket);
            builder.build().map(StoreClient::of).map_err(refused)
        }
        Location::Bucket {
            cloud: Cloud::Google,
            bucket,
            ..
        } => google::build(bucket, environment, |http| options(timeout, http))
            .map(StoreClient::of)
            .map_err(wrong),
        Location::Bucket {
            cloud: Cloud::Azure,
            bucket,
            ..
        } => azure::build(bucket, environment, |http| options(timeout, http))
            .map(StoreClient::of)
            .map_err(wrong),
        Location::Web(url) => {
            let store = HttpBuilder::new()
                .with_url(url.as_str())
                .with_client_options(options(timeout, url.scheme() == "http"))
                .with_retry(never())
                .with_http_connector(ObservingConnector)
                .build();
            let objects = store.map_err(refused)?;
            Ok(StoreClient {
                objects: Arc::new(objects),
                lists: None,
            })
        }
        Location::Directory(_) => Err(LocationError::Url {
            url: location.shown(),
            reason: "it is a directory".to_owned(),
        }),
    }
}

/// The text of a configuration error, with its innermost cause.
pub(super) fn reason(error: &object_store::Error) -> String {
    let last = deepest(error);
    let first = error.source().map_or_else(String::new, ToString::to_string);
    shown(&match first.contains(&last) {
        true => first,
        false => format!("{first}: {last}"),
    })
}

/// Adds the variables of a cloud to `builder`, under object_store's names.
pub(super) fn configured<B>(
    environment: &Environment,
    prefix: &str,
    builder: B,
    set: impl Fn(B, &str, &str) -> B,
) -> B {
    environment
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .fold(builder, |builder, (name, value)| {
            set(builder, &name.to_ascii_lowercase(), value)
        })
}

/// Checks the address in the variable `name`. object_store panics at one without a host.
pub(super) fn check_endpoint(name: &str, text: &str) -> Result<(), String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        Ok(_) | Err(_) => Err(format!(
            "the address in {name} is invalid; it has to begin with https:// or http://"
        )),
    }
}

/// Whether an address uses plain HTTP.
pub(super) fn is_plain(url: &str) -> bool {
    url.starts_with("http://")
}

fn options(timeout: Duration, http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(USER_AGENT))
        .with_allow_http(http)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_read_timeout(timeout)
}

pub(super) fn never() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}
