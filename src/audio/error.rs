//! Errors of sound files and of their processors.

/// Errors of a sound, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// The file is not a WAV file, or of an unsupported kind.
    #[error("the sound is not supported: {0}")]
    Unsupported(String),
    /// The file contradicts itself.
    #[error("invalid WAV file: {0}")]
    Malformed(String),
    /// The sound exceeds a limit of [`super::AudioLimits`].
    #[error("{what}: {given}, at most {limit} allowed; send a shorter sound")]
    TooLarge { what: &'static str, given: u64, limit: u64 },
    #[error("the sound has no samples")]
    Empty,
    #[error("sample {at} of the sound is not a finite number")]
    NotFinite { at: u64 },
    #[error("not enough memory for the sound; send a shorter one, or try again later")]
    OutOfMemory,
}

/// Reasons why a processor's file, or an input of a model, is not suitable for samples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudioProcessorError {
    #[error("invalid JSON: {0}")]
    Json(String),
    #[error("\"{key}\" is not a key of \"audio\"{}", .nearest.map(|known| format!("; did you mean \"{known}\"?")).unwrap_or_default())]
    UnknownKey { key: String, nearest: Option<&'static str> },
    #[error("\"{key}\": {problem}")]
    Value { key: &'static str, problem: String },
    /// The extractor does not return samples.
    #[error(
        "{extractor} makes spectrograms of the samples, which is not supported; export the model with its features, or send tensors"
    )]
    Spectrogram { extractor: String },
    #[error(
        "input {name} is {given}; samples need float32, float16 or int16 in the shape [samples], [sounds, samples] or [sounds, 1, samples]"
    )]
    Input { name: String, given: String },
}
