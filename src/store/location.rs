//! Parses the URL of a store.
//!
//! Buckets are written as the clouds' own tools write them (`s3://bucket/prefix`). The text after
//! the bucket is taken literally, so that a key can be copied from those tools. Web addresses are
//! URLs, so they are percent-encoded and may have a query, which is sent with each request and
//! never shown.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::error::LocationError;
use super::name::Name;

/// The location of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    Directory(PathBuf),
    Bucket {
        cloud: Cloud,
        /// The URL as given, without the prefix: `s3://bucket`.
        bucket: String,
        prefix: Option<Name>,
    },
    /// A URL without a slash at the end of its path.
    Web(Url),
}

/// The cloud of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    Amazon,
    Google,
    Azure,
}

impl Location {
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let wrong = |reason: &str| LocationError::Url {
            url: without_query(text).to_owned(),
            reason: reason.to_owned(),
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text {
                "" => Err(wrong("it is empty")),
                path => Ok(Self::Directory(path.into())),
            };
        };
        let cloud = match scheme {
            "s3" | "s3a" => Cloud::Amazon,
            "gs" => Cloud::Google,
            "az" | "azure" | "adl" | "abfs" | "abfss" => Cloud::Azure,
            "http" | "https" => return web(text),
            "file" => {
                let path = percent_decode_str(rest)
                    .decode_utf8()
                    .map_err(|_| wrong("it is not UTF-8"))?;
                return match path.starts_with('/') {
                    true => Ok(Self::Directory(path.as_ref().into())),
                    false => Err(wrong("a file URL has three slashes: file:///path")),
                };
            }
            _ => return Err(wrong("its scheme is unknown")),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | '@' | '$');
        if let Some((user, host)) = bucket.split_once('@')
            && (cloud != Cloud::Azure || user.contains(':'))
        {
            let url = format!("{scheme}://...@{host}");
            return Err(LocationError::Userinfo { url });
        }
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return Err(wrong("it names no bucket"));
        }
        let prefix = match prefix.trim_end_matches('/') {
            "" => None,
            prefix => Some(Name::parse(prefix).map_err(|error| wrong(&error.to_string()))?),
        };
        Ok(Self::Bucket {
            cloud,
            bucket: format!("{scheme}://{bucket}"),
            prefix,
        })
    }

    /// The URL of `name`, without secrets, for messages and as a key.
    pub fn url_of(&self, name: &Name) -> String {
        match self {
            Self::Directory(path) => path.join(name.as_str()).display().to_string(),
            Self::Bucket { .. } => format!("{}/{name}", self.shown()),
            Self::Web(url) => {
                let mut url = url.clone();
                url.set_query(None);
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop_if_empty().extend(name.as_str().split('/'));
                }
                url.into()
            }
        }
    }

    /// The URL of the store itself, for messages.
    pub fn shown(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Bucket { bucket, prefix, .. } => match prefix {
                Some(prefix) => format!("{bucket}/{prefix}"),
                None => bucket.clone(),
            },
            Self::Web(url) => {
                let mut url = url.clone();
                url.set_query(None);
                url.into()
            }
        }
    }
}

fn web(text: &str) -> Result<Location, LocationError> {
    let wrong = |reason: String| LocationError::Url {
        url: without_query(text).to_owned(),
        reason,
    };
    let mut url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().unwrap_or_default();
        return Err(LocationError::Userinfo {
            url: format!("{}://...@{host}", url.scheme()),
        });
    }
    url.set_fragment(None);
    url.path_segments_mut()
        .map_err(|()| wrong("it has no path".to_owned()))?
        .pop_if_empty();
    Ok(Location::Web(url))
}

/// The part of a URL that may be shown, even if the URL is invalid.
fn without_query(text: &str) -> &str {
    text.split(['?', '#']).next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(cloud: Cloud, bucket: &str, prefix: Option<&str>) -> Location {
        Location::Bucket {
            cloud,
            bucket: bucket.to_owned(),
            prefix: prefix.map(|prefix| Name::parse(prefix).unwrap()),
        }
    }

    #[test]
    fn each_store_is_known_by_its_url() {
        let table = [
            ("s3://models", bucket(Cloud::Amazon, "s3://models", None)),
            ("s3://models/", bucket(Cloud::Amazon, "s3://models", None)),
            ("s3a://models/a/", bucket(Cloud::Amazon, "s3a://models", Some("a"))),
            (
                "s3://my.models/a b/c%20d=?e",
                bucket(Cloud::Amazon, "s3://my.models", Some("a b/c%20d=?e")),
            ),
            ("gs://my_models/a", bucket(Cloud::Google, "gs://my_models", Some("a"))),
            ("az://models/a", bucket(Cloud::Azure, "az://models", Some("a"))),
            (
                "abfss://fs@account.dfs.core.windows.net/a",
                bucket(Cloud::Azure, "abfss://fs@account.dfs.core.windows.net", Some("a")),
            ),
            ("/models/a b%20", Location::Directory("/models/a b%20".into())),
            ("models", Location::Directory("models".into())),
            ("file:///models/a%20b", Location::Directory("/models/a b".into())),
            (
                "https://host:8443/a%20b/?sig=secret",
                Location::Web(Url::parse("https://host:8443/a%20b?sig=secret").unwrap()),
            ),
            ("http://host", Location::Web(Url::parse("http://host/").unwrap())),
        ];
        for (text, expected) in table {
            assert_eq!(Location::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_invalid_store_is_refused_without_showing_its_secrets() {
        let table = [
            ("", "it is empty"),
            ("ftp://host/a", "its scheme is unknown"),
            ("s3://", "it names no bucket"),
            ("s3:///a", "it names no bucket"),
            ("s3://key:secret@models", "has credentials in it"),
            ("az://key:secret@models", "has credentials in it"),
            ("s3://models/../other", "names cannot leave"),
            ("s3://models//a", "begins with \"/\""),
            ("gs://models/a//b", "empty segment"),
            ("file://host/a", "three slashes"),
            ("https://", "empty host"),
            ("https://user:secret@host/a", "has credentials in it"),
            ("https://[?secret", "invalid"),
        ];
        for (text, expected) in table {
            let message = Location::parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn urls_of_names_have_no_query() {
        let name = Name::parse("team=a/b c%.tar.gz").unwrap();
        let table = [
            ("s3://models/x/", "s3://models/x/team=a/b c%.tar.gz"),
            ("s3://models", "s3://models/team=a/b c%.tar.gz"),
            ("/models/", "/models/team=a/b c%.tar.gz"),
            ("https://host/x?sig=1", "https://host/x/team=a/b%20c%25.tar.gz"),
            ("https://host", "https://host/team=a/b%20c%25.tar.gz"),
        ];
        for (store, expected) in table {
            assert_eq!(Location::parse(store).unwrap().url_of(&name), expected, "{store}");
        }
    }
}
