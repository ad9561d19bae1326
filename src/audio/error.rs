//! The reasons why a file is no sound and why a processor is none for samples.

/// What can be wrong with a sound, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// The file is something else, or of a kind that is not read.
    #[error("the sound is not read: {0}")]
    Unsupported(String),
    /// The file contradicts itself.
    #[error("the WAV file is malformed: {0}")]
    Malformed(String),
    /// The sound is beyond a bound of [`super::AudioLimits`].
    #[error("{what}: {given} where at most {limit} are accepted; send a shorter sound")]
    TooLarge { what: &'static str, given: u64, limit: u64 },
    #[error("the sound has no samples")]
    Empty,
    #[error("sample {at} of the sound is not a finite number")]
    NotFinite { at: u64 },
    #[error("there is no memory left for the sound; send a shorter one, or try again later")]
    OutOfMemory,
}

/// The reasons why a processor's file, or an input of a model, is none for samples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudioProcessorError {
    #[error("it is not JSON: {0}")]
    Json(String),
    #[error("\"{key}\" is not a key of \"audio\"{}", .nearest.map(|known| format!("; did you mean \"{known}\"?")).unwrap_or_default())]
    UnknownKey { key: String, nearest: Option<&'static str> },
    #[error("\"{key}\": {problem}")]
    Value { key: &'static str, problem: String },
    /// The extractor makes something else of the samples.
    #[error(
        "{extractor} makes spectrograms of the samples, which is not supported; export the model with its features, or send tensors"
    )]
    Spectrogram { extractor: String },
    #[error(
        "input {name} is {given}; samples are float32, float16 or int16 in the shape [samples], [sounds, samples] or [sounds, 1, samples]"
    )]
    Input { name: String, given: String },
}
