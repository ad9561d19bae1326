//! A single attempt at a request to a store on the network: an object or a part of one under
//! conditions, or a page of a listing. Also classifies failures.

use std::borrow::Cow;
use std::error::Error as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, GetRange, ObjectStore, PutOptions};

use super::advice;
use super::clouds::StoreClient;
use super::error::{StoreError, is_transient_status};
use super::exchange::{Exchange, ResponseHead, shown};
use super::location::{Cloud, Location};
use super::tries::AttemptFailure;
use super::version::Version;

/// The attribute by which tools of Azure Data Lake and Hadoop mark an empty object as a folder.
const FOLDER: Attribute = Attribute::Metadata(Cow::Borrowed("hdi_isfolder"));

/// A store on the network.
pub(super) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    lists: Option<Arc<dyn PaginatedListStore>>,
    cloud: Option<Cloud>,
    timeout: Duration,
    /// Set once the server answered a range request with the whole object, as simple web servers
    /// do; later requests then ask for the whole.
    ignores_ranges: AtomicBool,
}

/// A request for an object.
#[derive(Debug, Clone)]
pub(super) struct GetRequest<'a> {
    pub key: &'a Path,
    /// The URL for messages.
    pub url: &'a str,
    /// The requested range; `None` for the whole object.
    pub range: Option<Range<u64>>,
    /// Only this version of the object.
    pub matching: Option<&'a Version>,
    /// Only a version other than this one.
    pub unless: Option<&'a Version>,
}

/// A response with an object whose bytes are about to come.
pub(super) struct OpenedObject {
    pub version: Version,
    /// Size of the whole object.
    pub bytes: u64,
    /// The range that `body` yields.
    pub range: Range<u64>,
    pub body: BoxStream<'static, object_store::Result<Bytes>>,
}

impl OpenedObject {
    pub fn is_whole(&self) -> bool {
        self.range == (0..self.bytes)
    }
}

impl Bucket {
    pub fn new(client: StoreClient, location: &Location, timeout: Duration) -> Self {
        let cloud = match location {
            Location::Bucket { cloud, .. } => Some(*cloud),
            Location::Directory(_) | Location::Web(_) => None,
        };
        Self {
            objects: client.objects,
            lists: client.lists,
            cloud,
            timeout,
            ignores_ranges: AtomicBool::new(false),
        }
    }

    pub fn has_lists(&self) -> bool {
        self.lists.is_some()
    }

    /// Makes one attempt. Returns `None` if the object has the known version.
    pub async fn get(&self, request: &GetRequest<'_>) -> Result<Option<OpenedObject>, AttemptFailure> {
        let range = request
            .range
            .clone()
            .filter(|_| !self.ignores_ranges.load(Ordering::Relaxed));
        let exchange = self.exchange();
        let result = self.request(request, range.clone(), &exchange).await;
        let result = match (exchange.status(), result) {
            (Some(200), Err(error)) if range.is_some() && !is_folder(&error) => {
                self.ignores_ranges.store(true, Ordering::Relaxed);
                self.whole(request).await
            }
            // An empty object has no ranges.
            (Some(416), Err(_)) if range.is_some_and(|range| range.start == 0) => self.whole(request).await,
            (Some(416), Err(_)) => Err(AttemptFailure::permanent(StoreError::Changed {
                url: request.url.to_owned(),
            })),
            (Some(304), Err(_)) => return Ok(None),
            (_, result) => result.map_err(|error| self.failure(request.url, &error, &exchange)),
        };
        match result {
            Ok(opened)
                if request
                    .matching
                    .is_some_and(|version| !version.agrees_with(&opened.version)) =>
            {
                Err(AttemptFailure::permanent(StoreError::Changed {
                    url: request.url.to_owned(),
                }))
            }
            Ok(opened) if request.unless.is_some_and(|version| *version == opened.version) => Ok(None),
            result => result.map(Some),
        }
    }

    async fn whole(&self, request: &GetRequest<'_>) -> Result<OpenedObject, AttemptFailure> {
        let exchange = self.exchange();
        let result = self.request(request, None, &exchange).await;
        result.map_err(|error| self.failure(request.url, &error, &exchange))
    }

    fn exchange(&self) -> Exchange {
        match self.cloud {
            Some(Cloud::Google) => Exchange::as_stored(),
            Some(Cloud::Amazon | Cloud::Azure) | None => Exchange::default(),
        }
    }

    async fn request(
        &self,
        request: &GetRequest<'_>,
        range: Option<Range<u64>>,
        exchange: &Exchange,
    ) -> object_store::Result<OpenedObject> {
        let mut options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        options.extensions.insert(exchange.clone());
        if let Some(version) = request.matching {
            options.if_match = version.strong_tag().map(str::to_owned);
            options.if_unmodified_since = version.modified().map(Into::into);
        }
        if let Some(version) = request.unless {
            options.if_none_match = version.tag().map(str::to_owned);
            options.if_modified_since = version.modified().map(Into::into);
        }
        let result = self.objects.get_opts(request.key, options).await?;
        let meta = &result.meta;
        if meta.size == 0
            && result
                .attributes
                .get(&FOLDER)
                .is_some_and(|value| value.as_ref() == "true")
        {
            return Err(object_store::Error::NotFound {
                path: request.key.to_string(),
                source: "it is the marker of a folder".into(),
            });
        }
        // object_store reports a missing time as 1970.
        let modified = Some(meta.last_modified.timestamp()).filter(|seconds| *seconds != 0);
        Ok(OpenedObject {
            version: Version::of(meta.e_tag.as_deref(), modified, meta.size),
            bytes: meta.size,
            range: result.range.clone(),
            body: result.into_stream(),
        })
    }

    /// Makes one attempt at a page of the objects below `prefix`.
    pub async fn list(
        &self,
        prefix: &str,
        url: &str,
        page_token: Option<String>,
    ) -> Result<PaginatedListResult, AttemptFailure> {
        let Some(lists) = &self.lists else {
            return Err(AttemptFailure::permanent(StoreError::NotFound { url: url.to_owned() }));
        };
        let exchange = Exchange::default();
        let mut options = PaginatedListOptions {
            page_token,
            ..PaginatedListOptions::default()
        };
        options.extensions.insert(exchange.clone());
        let result = lists.list_paginated(Some(prefix), options).await;
        result.map_err(|error| self.failure(url, &error, &exchange))
    }

    /// Makes one attempt to write an object.
    pub async fn put(&self, key: &Path, url: &str, bytes: Bytes, content_type: &str) -> Result<(), AttemptFailure> {
        let exchange = Exchange::default();
        let mut options = PutOptions {
            attributes: Attributes::from_iter([(Attribute::ContentType, content_type.to_owned())]),
            ..PutOptions::default()
        };
        options.extensions.insert(exchange.clone());
        match self.objects.put_opts(key, bytes.into(), options).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failure(url, &error, &exchange)),
        }
    }

    /// Classifies an error that ended a body.
    pub fn broken(&self, url: &str, error: &object_store::Error, read: u64, bytes: u64) -> AttemptFailure {
        let url = url.to_owned();
        AttemptFailure::transient(match find::<HttpError>(error).map(HttpError::kind) {
            Some(HttpErrorKind::Timeout) => StoreError::TimedOut {
                url,
                timeout: self.timeout,
                tries: 0,
            },
            _ => StoreError::CutShort {
                url,
                read,
                bytes,
                reason: shown(&deepest(error)),
                tries: 0,
            },
        })
    }

    fn failure(&self, url: &str, error: &object_store::Error, exchange: &Exchange) -> AttemptFailure {
        let url = url.to_owned();
        let reason = shown(&deepest(error));
        if is_folder(error) && matches!(exchange.status(), Some(200..300)) {
            return AttemptFailure::permanent(StoreError::NotFound { url });
        }
        let http = find::<HttpError>(error);
        if let Some(seen) = exchange.seen()
            && !(200..300).contains(&seen.response.status)
        {
            return self.refused(url, seen);
        }
        if !exchange.was_sent() {
            let no_credentials = StoreError::NoCredentials {
                url,
                reason,
                tries: 0,
                advice: advice::on_credentials(self.cloud),
            };
            return AttemptFailure {
                error: no_credentials,
                // Without a connection there is no source of credentials. With one, the failure may
                // pass.
                is_transient: http.is_some_and(|error| !could_not_connect(error)),
            };
        }
        match http {
            Some(error) if error.kind() == HttpErrorKind::Timeout && !could_not_connect(error) => {
                AttemptFailure::transient(StoreError::TimedOut {
                    url,
                    timeout: self.timeout,
                    tries: 0,
                })
            }
            Some(_) => AttemptFailure::transient(StoreError::Unreachable {
                url,
                reason,
                tries: 0,
                address: advice::on_address(self.cloud),
            }),
            None => AttemptFailure::permanent(StoreError::InvalidResponse { url, reason }),
        }
    }

    fn refused(&self, url: String, seen: &ResponseHead) -> AttemptFailure {
        let response = seen.response.clone();
        let code = response.code.as_deref().unwrap_or_default();
        let error = match (response.status, code) {
            (404, "NoSuchBucket" | "ContainerNotFound") => StoreError::NoBucket {
                url,
                bucket: advice::bucket(self.cloud),
                address: advice::on_address(self.cloud),
            },
            (404, _) => StoreError::NotFound { url },
            (412, _) => StoreError::Changed { url },
            (301 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
                if self.cloud == Some(Cloud::Amazon) =>
            {
                let region = seen.region.clone();
                StoreError::OtherRegion { url, region }
            }
            (401 | 403, _)
            | (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAuthenticationInfo")
            | (409, "PublicAccessNotPermitted" | "BlobArchived" | "BlobBeingRehydrated") => StoreError::Denied {
                advice: advice::on_refusal(self.cloud, &response),
                url,
                response,
            },
            (status, _) => {
                let status_error = StoreError::Status {
                    url,
                    response,
                    tries: 0,
                };
                return AttemptFailure {
                    error: status_error,
                    is_transient: is_transient_status(status),
                };
            }
        };
        AttemptFailure::permanent(error)
    }
}

/// Whether the object stands for a folder: Azure sends an empty object for one.
fn is_folder(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
}

fn could_not_connect(error: &HttpError) -> bool {
    let by_client = error
        .source()
        .and_then(|source| source.downcast_ref::<reqwest::Error>());
    error.kind() == HttpErrorKind::Connect || by_client.is_some_and(reqwest::Error::is_connect)
}

/// The error of type `E` in the chain of sources.
fn find<E: std::error::Error + 'static>(error: &object_store::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The text of the innermost source. The errors above repeat it, some with the whole URL.
pub(super) fn deepest(error: &object_store::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
