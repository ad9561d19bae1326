//! Outputs of a model as the answer of its task.
