//! Reads WAV files: checks the header against the bytes of the file, and mixes the samples to mono.

use super::error::AudioError;
use super::g711;
use super::resample::{filter_length, resampled_length};

/// Limits on a sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLimits {
    /// Maximum samples of one channel, before and after resampling. Half an hour at 16 kHz is 29
    /// million.
    pub samples: u64,
    /// Maximum channels.
    pub channels: u16,
    /// Minimum and maximum samples per second.
    pub rates: (u32, u32),
}

impl Default for AudioLimits {
    fn default() -> Self {
        Self {
            samples: 100_000_000,
            channels: 64,
            rates: (1_000, 384_000),
        }
    }
}

/// The encoding of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleFormat {
    /// Unsigned, with 128 for silence.
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
    ALaw,
    MuLaw,
}

impl SampleFormat {
    const fn size(self) -> usize {
        match self {
            Self::U8 | Self::ALaw | Self::MuLaw => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// The header of a WAV file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WavProbe {
    pub rate: u32,
    pub channels: u16,
    /// Samples of each channel.
    pub frames: u64,
    pub format: SampleFormat,
    /// The position of the samples in the file.
    start: usize,
}

impl WavProbe {
    /// Peak memory of reading the sound and resampling it to `rate`, in bytes.
    pub fn memory(&self, rate: u32) -> u64 {
        let mono = self.frames.saturating_mul(4);
        if rate == self.rate {
            return mono;
        }
        let resampled = resampled_length(self.frames, self.rate, rate).unwrap_or(u64::MAX);
        let filter = filter_length(self.rate, rate).saturating_mul(8);
        mono.saturating_add(resampled.saturating_mul(4)).saturating_add(filter)
    }
}

/// A sound of one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    pub rate: u32,
    pub samples: Vec<f32>,
}

/// Whether a file has the magic bytes of WAV.
pub fn is_wav(head: &[u8]) -> bool {
    matches!(head.get(..4), Some(b"RIFF")) && head.get(8..12) == Some(b"WAVE")
}

/// Reads the header.
pub fn probe(bytes: &[u8], limits: &AudioLimits) -> Result<WavProbe, AudioError> {
    match bytes.get(..4) {
        Some(b"RF64" | b"BW64" | b"RIFX") => {
            return Err(AudioError::Unsupported("it is RF64, BW64 or RIFX; use RIFF".to_owned()));
        }
        _ if !is_wav(bytes) => {
            return Err(AudioError::Unsupported(
                "not a WAV file, which begins with RIFF and WAVE".to_owned(),
            ));
        }
        _ => {}
    }
    let mut at = 12;
    let mut format = None;
    loop {
        let header = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<8>);
        let Some((header, rest)) = header else {
            let missing = if format.is_some() { "data" } else { "fmt" };
            return Err(AudioError::Malformed(format!("there is no {missing} chunk")));
        };
        let length = word(&header[4..]);
        match &header[..4] {
            b"fmt " => {
                let body = length_in(rest, length).ok_or_else(|| cut("fmt"))?;
                format = Some(Format::read(body, limits)?);
            }
            b"data" => {
                let format = format
                    .ok_or_else(|| AudioError::Malformed("the data chunk comes before its fmt chunk".to_owned()))?;
                return format.over(at + 8, rest.len(), length, limits);
            }
            _ => {}
        }
        // Chunks begin at even positions.
        let step = 8 + length as usize + (length as usize & 1);
        at = at.checked_add(step).ok_or_else(|| cut("last"))?;
    }
}

fn length_in(rest: &[u8], length: u32) -> Option<&[u8]> {
    rest.get(..usize::try_from(length).ok()?)
}

#[cold]
fn cut(chunk: &str) -> AudioError {
    AudioError::Malformed(format!("the {chunk} chunk is longer than the file"))
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The `fmt` chunk.
struct Format {
    rate: u32,
    channels: u16,
    format: SampleFormat,
}

impl Format {
    fn read(body: &[u8], limits: &AudioLimits) -> Result<Self, AudioError> {
        /// The common end of the format identifiers; they begin with a tag.
        const GUID: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
        const EXTENSIBLE: u16 = 0xfffe;
        let malformed = |problem: String| Err(AudioError::Malformed(problem));
        if body.len() < 16 {
            return malformed(format!("the fmt chunk has {} bytes, expected at least 16", body.len()));
        }
        let (channels, rate, block, bits) = (half(&body[2..]), word(&body[4..]), half(&body[12..]), half(&body[14..]));
        let mut tag = half(body);
        if tag == EXTENSIBLE {
            let Some(guid) = body.get(24..40) else {
                return malformed("the fmt chunk is too short for an extensible format".to_owned());
            };
            if guid[2..] != GUID {
                return Err(AudioError::Unsupported("the format is specific to a vendor".to_owned()));
            }
            tag = half(guid);
        }
        if channels == 0 {
            return malformed("0 channels".to_owned());
        }
        if channels > limits.channels {
            return Err(AudioError::TooLarge {
                what: "channels of a sound",
                given: channels.into(),
                limit: limits.channels.into(),
            });
        }
        let (least, most) = limits.rates;
        if !(least..=most).contains(&rate) {
            return malformed(format!(
                "the rate is {rate} samples per second, expected {least} to {most}"
            ));
        }
        if block % channels != 0 || block == 0 {
            return malformed(format!(
                "frames of {block} bytes cannot be divided among {channels} channels"
            ));
        }
        // Samples of other widths fill whole bytes, in the upper bits.
        let width = block / channels;
        if bits == 0 || bits > width.saturating_mul(8) {
            return malformed(format!("samples of {bits} bits do not fit into {width} bytes"));
        }
        let format = match (tag, width) {
            (1, 1) => SampleFormat::U8,
            (1, 2) => SampleFormat::I16,
            (1, 3) => SampleFormat::I24,
            (1, 4) => SampleFormat::I32,
            (3, 4) if bits == 32 => SampleFormat::F32,
            (3, 8) if bits == 64 => SampleFormat::F64,
            (6, 1) => SampleFormat::ALaw,
            (7, 1) => SampleFormat::MuLaw,
            (1 | 3 | 6 | 7, _) => {
                return Err(AudioError::Unsupported(format!(
                    "samples of {width} bytes in format {tag}"
                )));
            }
            _ => {
                return Err(AudioError::Unsupported(format!(
                    "the samples are compressed (format {tag}); send PCM or floats"
                )));
            }
        };
        Ok(Self { rate, channels, format })
    }

    /// Adds the data chunk, which begins at `start`. `there` is the number of bytes up to the end
    /// of the file.
    fn over(self, start: usize, there: usize, length: u32, limits: &AudioLimits) -> Result<WavProbe, AudioError> {
        /// A recorder that writes into a pipe does not know the length and writes roughly the
        /// maximum.
        const UNKNOWN: u32 = 0x7fff_0000;
        let length = match usize::try_from(length) {
            Ok(length) if length <= there => length,
            _ if length >= UNKNOWN => there,
            _ => {
                return Err(AudioError::Malformed(format!(
                    "the data chunk should have {length} bytes, but only {there} follow"
                )));
            }
        };
        let frames = (length / (self.format.size() * usize::from(self.channels))) as u64;
        if frames == 0 {
            return Err(AudioError::Empty);
        }
        if frames > limits.samples {
            return Err(AudioError::TooLarge {
                what: "samples of a sound",
                given: frames,
                limit: limits.samples,
            });
        }
        Ok(WavProbe {
            rate: self.rate,
            channels: self.channels,
            frames,
            format: self.format,
            start,
        })
    }
}

/// Reads a WAV file, and mixes its channels by their mean.
pub fn read(bytes: &[u8], limits: &AudioLimits) -> Result<Sound, AudioError> {
    let probe = probe(bytes, limits)?;
    let samples = match probe.format {
        SampleFormat::U8 => mono(&probe, bytes, |[b]: [u8; 1]| (f32::from(b) - 128.0) / 128.0),
        SampleFormat::ALaw => mono(&probe, bytes, |[b]: [u8; 1]| f32::from(g711::a_law(b)) / 32_768.0),
        SampleFormat::MuLaw => mono(&probe, bytes, |[b]: [u8; 1]| f32::from(g711::mu_law(b)) / 32_768.0),
        SampleFormat::I16 => mono(&probe, bytes, |b| f32::from(i16::from_le_bytes(b)) / 32_768.0),
        SampleFormat::I24 => mono(&probe, bytes, |[a, b, c]: [u8; 3]| whole([0, a, b, c])),
        SampleFormat::I32 => mono(&probe, bytes, whole),
        SampleFormat::F32 => mono(&probe, bytes, f32::from_le_bytes),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "samples are floats of single precision from here on"
        )]
        SampleFormat::F64 => mono(&probe, bytes, |b| f64::from_le_bytes(b) as f32),
    }?;
    if let Some(at) = samples.iter().position(|sample| !sample.is_finite()) {
        return Err(AudioError::NotFinite { at: at as u64 });
    }
    Ok(Sound {
        rate: probe.rate,
        samples,
    })
}

/// Converts a 32-bit integer to a float from -1 to 1.
#[expect(clippy::cast_precision_loss, reason = "as libsndfile reads them")]
fn whole(bytes: [u8; 4]) -> f32 {
    i32::from_le_bytes(bytes) as f32 / 2_147_483_648.0
}

fn mono<const SIZE: usize>(
    probe: &WavProbe,
    bytes: &[u8],
    sample: impl Fn([u8; SIZE]) -> f32,
) -> Result<Vec<f32>, AudioError> {
    let frames = usize::try_from(probe.frames).map_err(|_| AudioError::OutOfMemory)?;
    let channels = usize::from(probe.channels);
    let mut samples = Vec::new();
    samples.try_reserve_exact(frames).map_err(|_| AudioError::OutOfMemory)?;
    let (data, _) = bytes[probe.start..].as_chunks::<SIZE>();
    if channels == 1 {
        samples.extend(data.iter().take(frames).map(|&bytes| sample(bytes)));
    } else {
        let mean = |frame: &[[u8; SIZE]]| {
            let sum: f32 = frame.iter().map(|&bytes| sample(bytes)).sum();
            sum / f32::from(probe.channels)
        };
        samples.extend(data.chunks_exact(channels).take(frames).map(mean));
    }
    Ok(samples)
}
