//! The environment as a value, passed to a store when it is opened: clouds use it for credentials.

use std::collections::BTreeMap;
use std::fmt;

/// The variables of a process at its start. An empty variable counts as not set.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether `name` is set to a word for yes.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(variables.filter(|(_, value): &(_, String)| !value.is_empty()).collect())
    }
}

/// Shows the names only, because the values are secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_not_set() {
        let environment = Environment::from_iter([("A", ""), ("B", "b")]);
        assert_eq!((environment.get("A"), environment.get("B")), (None, Some("b")));
        assert_eq!(environment.iter().count(), 1);
    }

    #[test]
    fn several_words_mean_yes() {
        let table = [
            ("true", true),
            ("True", true),
            ("1", true),
            ("false", false),
            ("0", false),
        ];
        for (value, expected) in table {
            assert_eq!(Environment::from_iter([("A", value)]).is_set("A"), expected, "{value}");
        }
        assert!(!Environment::default().is_set("A"));
    }

    #[test]
    fn values_are_not_shown() {
        let environment = Environment::from_iter([("AWS_SECRET_ACCESS_KEY", "hunter2")]);
        assert_eq!(format!("{environment:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
