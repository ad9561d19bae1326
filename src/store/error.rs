//! Errors of a store, each with what to change.
//!
//! Errors hold texts instead of sources: the text of a store's response is cut to a line and
//! stripped of control characters. URLs have no query, because the query of presigned URLs and SAS
//! tokens has their secrets.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::NameError;

/// Reasons why a store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error(
        "{url:?} is not a model store ({reason}); give s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, \
         https://host/path or a directory"
    )]
    Url { url: String, reason: String },
    #[error("{url} has credentials in it; give them in the environment, or as the query of a presigned URL")]
    Userinfo { url: String },
    #[error("the model store {path} cannot be read ({reason}); make it a directory that this user may read", path = .path.display())]
    Directory { path: PathBuf, reason: String },
    #[error("{path}: {reason}", path = .path.display())]
    Profile { path: PathBuf, reason: String },
    #[error(
        "the profile {profile:?} has no keys in {path}; for a profile with a role or single sign-on, put its keys into the \
         environment with `aws configure export-credentials --profile {profile} --format env`",
        path = .path.display()
    )]
    ProfileWithoutKeys { profile: String, path: PathBuf },
    #[error(
        "{url} cannot be opened with the settings in the environment: {reason}{}",
        on_certificates(reason)
    )]
    Settings { url: String, reason: String },
    #[error("start the thread of the model store: {reason}")]
    Thread { reason: String },
}

/// Reasons why an object or folder was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("there is nothing at {url}, neither an object nor a folder of files that may be listed; check the name")]
    NotFound { url: String },
    #[error("there is no {bucket} for {url}; check its name, and {address}")]
    NoBucket {
        url: String,
        bucket: &'static str,
        address: &'static str,
    },
    #[error(
        "{url} is in another region{}; set AWS_REGION to that of the bucket",
        in_region(region)
    )]
    OtherRegion { url: String, region: Option<String> },
    #[error("{url} is refused: {response}; {advice}")]
    Denied {
        url: String,
        response: StoreResponse,
        advice: &'static str,
    },
    #[error("there are no credentials for {url} ({reason}){}; {advice}", after(*tries))]
    NoCredentials {
        url: String,
        reason: String,
        tries: u32,
        advice: &'static str,
    },
    #[error(
        "{url} cannot be reached{}: {reason}; check {address}, the network, HTTPS_PROXY where there is a proxy, and \
         SSL_CERT_FILE for certificates of your own",
        after(*tries)
    )]
    Unreachable {
        url: String,
        reason: String,
        tries: u32,
        address: &'static str,
    },
    #[error(
        "{url} sent nothing for {}{}; raise --store-timeout if the store is that slow",
        humantime::format_duration(*timeout), after(*tries)
    )]
    TimedOut { url: String, timeout: Duration, tries: u32 },
    #[error("{url} answered {response}{}; {}", after(*tries), later(response))]
    Status {
        url: String,
        response: StoreResponse,
        tries: u32,
    },
    #[error("{url} was cut off at {read} of {bytes} bytes{} ({reason}); try again later", after(*tries))]
    CutShort {
        url: String,
        read: u64,
        bytes: u64,
        reason: String,
        tries: u32,
    },
    #[error("{url} was replaced while it was read; try again when nothing writes to it")]
    Changed { url: String },
    #[error("{url} sent an invalid response ({reason}); check that it is the intended store")]
    InvalidResponse { url: String, reason: String },
    #[error("the folder {url} has more than {limit} files (--max-entries)")]
    TooManyFiles { url: String, limit: u64 },
    #[error("the folder {url} has more than {limit} bytes (--max-unpacked)")]
    TooLarge { url: String, limit: u64 },
    #[error("a file in the folder {url} cannot be used: {reason}; rename it")]
    FileName { url: String, reason: NameError },
    #[error("the folder {url} has {name:?} both as a file and as a folder; rename one")]
    FileAndFolder { url: String, name: String },
    #[error("{url} leads out of the model store; put the file itself there instead of a link")]
    Outside { url: String },
    #[error("{url} is neither a file nor a directory; put a model there")]
    Special { url: String },
    #[error("{url} cannot be read ({reason}); make it readable for this user")]
    Local { url: String, reason: String },
    #[error("reading {url} was interrupted: the server is stopping, or its log has the reason")]
    Stopped { url: String },
}

/// A store's response in place of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreResponse {
    pub status: u16,
    /// The store's own error code, such as `SignatureDoesNotMatch`.
    pub code: Option<String>,
    pub message: Option<String>,
}

impl StoreResponse {
    /// Whether the message contains `words`.
    pub(super) fn says(&self, words: &str) -> bool {
        self.message.as_ref().is_some_and(|message| message.contains(words))
    }
}

impl std::fmt::Display for StoreResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        match &self.message {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

impl StoreError {
    /// Whether the same request may succeed a little later without any change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::CutShort { .. }
            | Self::Changed { .. }
            | Self::Stopped { .. } => true,
            Self::Status { response, .. } => is_transient_status(response.status),
            Self::NotFound { .. }
            | Self::NoBucket { .. }
            | Self::OtherRegion { .. }
            | Self::Denied { .. }
            | Self::NoCredentials { .. }
            | Self::InvalidResponse { .. }
            | Self::TooManyFiles { .. }
            | Self::TooLarge { .. }
            | Self::FileName { .. }
            | Self::FileAndFolder { .. }
            | Self::Outside { .. }
            | Self::Special { .. }
            | Self::Local { .. } => false,
        }
    }

    /// The same error with the number of attempts.
    pub(super) fn after(mut self, made: u32) -> Self {
        if let Self::NoCredentials { tries, .. }
        | Self::Unreachable { tries, .. }
        | Self::TimedOut { tries, .. }
        | Self::Status { tries, .. }
        | Self::CutShort { tries, .. } = &mut self
        {
            *tries = made;
        }
        self
    }
}

/// Whether a status means that the store has a problem of its own or is overloaded.
pub(super) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

fn on_certificates(reason: &str) -> &'static str {
    match reason.contains("CA certificates") {
        true => "; install the package ca-certificates, or set SSL_CERT_FILE",
        false => "",
    }
}

fn later(response: &StoreResponse) -> &'static str {
    match is_transient_status(response.status) {
        true => "try again later",
        false => "check the URL and the name",
    }
}

fn after(tries: u32) -> String {
    match tries {
        0 | 1 => String::new(),
        tries => format!(" after {tries} tries"),
    }
}

fn in_region(region: &Option<String>) -> String {
    match region {
        Some(region) => format!(" ({region})"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
