//! Pictures to tensors, as the model's preprocessor file describes.
