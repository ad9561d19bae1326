//! Sentences to token ids, as the model's tokenizer file describes.
