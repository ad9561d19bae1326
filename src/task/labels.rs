//! The names of classes.

use std::borrow::Cow;
use std::sync::Arc;

/// The names of classes, by number. A class without a name is `LABEL_` and its number, as in
/// transformers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Arc<[String]>);

impl Labels {
    pub fn new(names: &[String]) -> Self {
        Self(names.into())
    }

    /// The number of classes that have names.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn name(&self, class: usize) -> Cow<'_, str> {
        match self.0.get(class) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("LABEL_{class}")),
        }
    }

    /// The first class whose name satisfies `is`.
    pub(super) fn position(&self, is: impl Fn(&str) -> bool) -> Option<usize> {
        self.0.iter().position(|name| is(name))
    }
}
