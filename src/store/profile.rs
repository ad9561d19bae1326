//! Static keys that `aws configure` wrote to `~/.aws`.
//!
//! A profile that assumes a role, signs in or runs a program needs AWS's own tools, which can
//! export the resulting keys to the environment. The error says how.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::LocationError;

/// Prefixes of the settings by which a profile gets credentials in another way.
const OTHERWISE: [&str; 5] = [
    "role_arn",
    "sso_",
    "credential_process",
    "web_identity_token_file",
    "login_session",
];

/// The values of the profile in use; empty if there is none.
#[derive(Debug, Default)]
pub(super) struct Profile {
    name: String,
    path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Profile {
    pub fn read(environment: &Environment) -> Result<Self, LocationError> {
        let folder = environment.get("HOME").map(|home| Path::new(home).join(".aws"));
        let file = |variable, name| {
            let named = environment.get(variable).map(PathBuf::from);
            named.or_else(|| folder.as_ref().map(|folder| folder.join(name)))
        };
        let chosen = environment.get("AWS_PROFILE");
        let name = chosen.unwrap_or("default");
        let mut profile = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        let mut found = false;
        let sections = [name.to_owned(), format!("profile {name}")];
        // The credentials file takes precedence over the config file, so it is read last.
        for path in [
            file("AWS_CONFIG_FILE", "config"),
            file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        ]
        .into_iter()
        .flatten()
        {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                Err(error) if chosen.is_none() => {
                    tracing::warn!(path = %path.display(), %error, "this file of AWS profiles cannot be read");
                    String::new()
                }
                Err(error) => {
                    let reason = format!("AWS_PROFILE is set, but this file cannot be read ({error})");
                    return Err(LocationError::Profile { path, reason });
                }
            };
            profile.path = path;
            found |= settings(&text, &sections, &mut profile.values);
        }
        match chosen {
            Some(name) if !found => Err(LocationError::Profile {
                path: profile.path,
                reason: format!("it has no profile {name:?}; correct AWS_PROFILE"),
            }),
            _ => Ok(profile),
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The error for a profile without keys that gets its credentials in another way.
    pub fn other_credentials(&self) -> Option<LocationError> {
        let otherwise = |name: &String| OTHERWISE.iter().any(|beginning| name.starts_with(beginning));
        self.values
            .keys()
            .any(otherwise)
            .then(|| LocationError::ProfileWithoutKeys {
                profile: self.name.clone(),
                path: self.path.clone(),
            })
    }
}

/// Adds the values of `sections` in `text` to `values`. Returns whether there is such a section.
fn settings(text: &str, sections: &[String], values: &mut BTreeMap<String, String>) -> bool {
    let (mut inside, mut found) = (false, false);
    for line in text.lines() {
        if let Some(section) = line.trim().strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default();
            let section = section.split_whitespace().collect::<Vec<_>>().join(" ");
            inside = sections.contains(&section);
            found |= inside;
        } else if inside
            // Indented lines belong to nested settings such as `s3 =`.
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            let value = value.split(" #").next().unwrap_or_default().trim();
            if !value.is_empty() {
                values.insert(name.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# comment
[default]
aws_access_key_id=AKIA
aws_secret_access_key = s3cr=t/+ # mine

[ other ]
aws_access_key_id = OTHER
";

    const CONFIG: &str = "\
[default]
region = eu-west-1
s3 =
  addressing_style = path
aws_access_key_id = older
[profile sso]
sso_session = corp
[profile dev]
region = us-west-2
";

    /// The profile that `variables` select from the two files above.
    fn read(variables: &[(&str, &str)]) -> Result<Profile, LocationError> {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("credentials"), CREDENTIALS).unwrap();
        fs::write(folder.join("config"), CONFIG).unwrap();
        let home = ("HOME", home.path().to_str().unwrap());
        Profile::read(&Environment::from_iter([home].iter().chain(variables).copied()))
    }

    #[test]
    fn the_default_profile_is_read_from_both_files() {
        let profile = read(&[]).unwrap();
        assert_eq!(profile.get("aws_access_key_id"), Some("AKIA"));
        assert_eq!(profile.get("aws_secret_access_key"), Some("s3cr=t/+"));
        assert_eq!(profile.get("region"), Some("eu-west-1"));
        assert_eq!(profile.get("addressing_style"), None);
        assert_eq!(profile.other_credentials(), None);
    }

    #[test]
    fn a_profile_is_chosen_by_name() {
        let profile = read(&[("AWS_PROFILE", "other")]).unwrap();
        assert_eq!(profile.get("aws_access_key_id"), Some("OTHER"));
        assert_eq!(profile.get("region"), None);
        let profile = read(&[("AWS_PROFILE", "dev")]).unwrap();
        assert_eq!(profile.get("region"), Some("us-west-2"));
        let message = read(&[("AWS_PROFILE", "none")]).unwrap_err().to_string();
        assert!(message.contains("it has no profile \"none\""), "{message}");
    }

    #[test]
    fn a_profile_without_keys_says_how_to_export_them() {
        let profile = read(&[("AWS_PROFILE", "sso")]).unwrap();
        let message = profile.other_credentials().unwrap().to_string();
        assert!(
            message.contains("aws configure export-credentials --profile sso --format env"),
            "{message}"
        );
    }

    #[test]
    fn missing_files_give_an_empty_profile() {
        assert_eq!(Profile::read(&Environment::default()).unwrap().get("region"), None);
        let nowhere = Environment::from_iter([("HOME", "/nonexistent")]);
        assert_eq!(Profile::read(&nowhere).unwrap().get("region"), None);
    }
}
