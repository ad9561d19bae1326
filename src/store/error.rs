//! Why something did not come out of a store, each with what to change.
//!
//! Texts, not sources: what a store answered is cut to a line and cleared of control characters, and no URL in it carries a
//! query, because that is where presigned URLs and SAS tokens have their secrets.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::NameError;

/// Why a store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{url:?} is no model store ({reason}); give s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, \
         https://host/path or a directory"
    )]
    Url { url: String, reason: String },
    #[error("{url} has credentials in it; give them by the environment, or as the query of a presigned URL")]
    Userinfo { url: String },
    #[error("the model store {path} cannot be read ({reason}); make it a directory that this user may read", path = .path.display())]
    Directory { path: PathBuf, reason: String },
    #[error("{path}: {reason}", path = .path.display())]
    Profile { path: PathBuf, reason: String },
    #[error(
        "the profile {profile:?} has no keys in {path}; profiles with roles or single sign-on are understood once \
         `aws configure export-credentials --profile {profile} --format env` has put their keys into the environment",
        path = .path.display()
    )]
    ProfileWithoutKeys { profile: String, path: PathBuf },
    #[error(
        "{url} cannot be opened with what the environment says: {reason}{}",
        on_certificates(reason)
    )]
    Settings { url: String, reason: String },
    #[error("start the thread of the model store: {reason}")]
    Thread { reason: String },
}

/// Why nothing, or not all of it, came out of a store.
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
    #[error("{url} is refused: {answer}; {advice}")]
    Denied {
        url: String,
        answer: Answer,
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
         SSL_CERT_FILE where certificates are your own",
        after(*tries)
    )]
    Unreachable {
        url: String,
        reason: String,
        tries: u32,
        address: &'static str,
    },
    #[error(
        "{url} sent nothing for {}{}; raise --store-timeout if that is how slow the store is",
        humantime::format_duration(*timeout), after(*tries)
    )]
    TimedOut { url: String, timeout: Duration, tries: u32 },
    #[error("{url} answered {answer}{}; {}", after(*tries), later(answer))]
    Status { url: String, answer: Answer, tries: u32 },
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
    #[error("{url} answers in a way that is not understood ({reason}); check that it is the store that was meant")]
    Answer { url: String, reason: String },
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
    #[error("reading {url} was broken off: the server is stopping, or its log has the reason")]
    Stopped { url: String },
}

/// What a store answered instead of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The store's own word for it, such as `SignatureDoesNotMatch`.
    pub code: Option<String>,
    pub message: Option<String>,
}

impl Answer {
    /// Whether `words` are in its message.
    pub(super) fn says(&self, words: &str) -> bool {
        self.message.as_ref().is_some_and(|message| message.contains(words))
    }
}

impl std::fmt::Display for Answer {
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
    /// Whether the same may go well a little later, without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::CutShort { .. }
            | Self::Changed { .. }
            | Self::Stopped { .. } => true,
            Self::Status { answer, .. } => is_passing(answer.status),
            Self::NotFound { .. }
            | Self::NoBucket { .. }
            | Self::OtherRegion { .. }
            | Self::Denied { .. }
            | Self::NoCredentials { .. }
            | Self::Answer { .. }
            | Self::TooManyFiles { .. }
            | Self::TooLarge { .. }
            | Self::FileName { .. }
            | Self::FileAndFolder { .. }
            | Self::Outside { .. }
            | Self::Special { .. }
            | Self::Local { .. } => false,
        }
    }

    /// The same, found after so many tries.
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

/// Whether a status says that the store has trouble of its own, or too much to do.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

fn on_certificates(reason: &str) -> &'static str {
    match reason.contains("CA certificates") {
        true => "; install the package ca-certificates, or set SSL_CERT_FILE",
        false => "",
    }
}

fn later(answer: &Answer) -> &'static str {
    match is_passing(answer.status) {
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
