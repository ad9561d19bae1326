use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tensor::{DataType, Dim, InputSpec};

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "audio"].iter().collect()
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

fn wav(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name).with_extension("wav")).unwrap()
}

#[track_caller]
fn assert_close(given: &[f32], expected: &[f32], most: f32) {
    assert_eq!(given.len(), expected.len());
    for (at, (given, expected)) in given.iter().zip(expected).enumerate() {
        assert!(
            (given - expected).abs() <= most,
            "sample {at}: {given} and not {expected}"
        );
    }
}

fn spec(data_type: DataType, dims: &[Option<usize>]) -> InputSpec {
    InputSpec {
        name: "input_values".to_owned(),
        data_type,
        dims: Some(
            dims.iter()
                .map(|dim| dim.map_or(Dim::Dynamic(None), Dim::Fixed))
                .collect(),
        ),
    }
}

fn sound(samples: Vec<f32>) -> Sound {
    Sound { rate: 16_000, samples }
}

#[test]
fn every_format_is_read_as_libsndfile_reads_it() {
    let limits = AudioLimits::default();
    let expected = expected();
    let formats = expected["formats"].as_object().unwrap();
    assert_eq!(formats.len(), 14);
    for (name, samples) in formats {
        let sound = read(&wav(name), &limits).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(sound.rate, 16_000, "{name}");
        assert_close(&sound.samples, &floats(samples), 1e-6);
    }
}

#[test]
fn resampling_matches_scipy() {
    let expected = expected();
    let sound = floats(&expected["sound"]);
    let cases = expected["resampled"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    for case in cases {
        let number = |key: &str| u32::try_from(case[key].as_u64().unwrap()).unwrap();
        let length = case["length"]
            .as_u64()
            .map_or(sound.len(), |length| usize::try_from(length).unwrap());
        let given = resample(&sound[..length], number("from"), number("to"), u64::MAX).unwrap();
        assert_close(&given, &floats(&case["samples"]), 1e-5);
    }
}

#[test]
fn features_match_those_of_wav2vec2() {
    let expected = expected();
    let sound_of = floats(&expected["sound"]);
    let sounds = vec![
        sound(sound_of[..300].to_vec()),
        sound(sound_of[100..220].iter().map(|sample| sample * 0.01).collect()),
    ];
    for case in expected["extractor"].as_array().unwrap() {
        let processor = AudioProcessor::parse(case["config"].as_str().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(processor.sampling_rate, Some(16_000));
        assert_eq!(processor.return_attention_mask, Some(true));
        let input = processor.bind(&spec(DataType::F32, &[None, None])).unwrap();
        let samples = input.apply(sounds.clone(), &AudioLimits::default()).unwrap();
        assert_eq!(samples.tensor.shape(), [2, 300]);
        let values = case["input_values"].as_array().unwrap().iter().flat_map(floats);
        assert_close(samples.tensor.as_slice().unwrap(), &values.collect::<Vec<_>>(), 1e-5);
        let mask: String = case["attention_mask"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let given: String = samples
            .mask
            .as_slice::<i64>()
            .unwrap()
            .iter()
            .map(i64::to_string)
            .collect();
        assert_eq!(given, mask);
        assert_eq!((samples.rows, samples.is_cut), (vec![1, 1], vec![false, false]));
    }
}

#[test]
fn sounds_are_padded_or_truncated_to_a_fixed_length() {
    let processor = AudioProcessor::default();
    let input = processor.bind(&spec(DataType::F32, &[None, Some(1), Some(4)])).unwrap();
    let sounds = vec![sound(vec![0.5, -0.5]), sound(vec![1.0, 2.0, 3.0, 4.0, 5.0])];
    let samples = input.apply(sounds, &AudioLimits::default()).unwrap();
    assert_eq!(samples.tensor.shape(), [2, 1, 4]);
    assert_eq!(
        samples.tensor.as_slice::<f32>().unwrap(),
        [0.5, -0.5, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    );
    assert_eq!(samples.is_cut, [false, true]);
}

#[test]
fn a_sound_of_16_bits_reaches_an_int16_input_unchanged() {
    let bytes = wav("i16");
    let expected: Vec<i16> = bytes[44..]
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| i16::from_le_bytes(bytes))
        .collect();
    let input = AudioProcessor::default().bind(&spec(DataType::I16, &[None])).unwrap();
    let sound = read(&bytes, &AudioLimits::default()).unwrap();
    let samples = input.apply(vec![sound.clone()], &AudioLimits::default()).unwrap();
    assert_eq!(samples.tensor.shape(), [80]);
    assert_eq!(samples.tensor.as_slice::<i16>().unwrap(), expected);
    let error = input
        .apply(vec![sound.clone(), sound], &AudioLimits::default())
        .unwrap_err();
    assert!(error.to_string().contains("for a model that takes one: 2"), "{error}");
}

#[test]
fn chunks_overlap_by_the_stride_of_the_manifest() {
    let audio = json!({"sampling_rate": 1000, "chunk_seconds": 0.004, "stride_seconds": 0.002});
    let processor = AudioProcessor::from_manifest(&audio).unwrap();
    let input = processor.bind(&spec(DataType::F32, &[None, None])).unwrap();
    let apply = |count: u8| {
        let samples = (1..=count).map(f32::from).collect();
        let sounds = vec![Sound { rate: 1000, samples }];
        input.apply(sounds, &AudioLimits::default()).unwrap()
    };
    let samples = apply(7);
    assert_eq!(samples.rows, [3]);
    assert_eq!(
        samples.tensor.as_slice::<f32>().unwrap(),
        [1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0, 5.0, 6.0, 7.0, 0.0]
    );
    assert_eq!(apply(4).rows, [1]);
    assert_eq!(apply(5).rows, [2]);
    let journal = serde_json::to_string(&processor).unwrap();
    assert_eq!(serde_json::from_str::<AudioProcessor>(&journal).unwrap(), processor);
}

#[test]
fn chunks_over_the_limit_are_refused_before_allocation() {
    let audio = json!({"chunk_seconds": 1000, "stride_seconds": 0.001});
    let input = AudioProcessor::from_manifest(&audio).unwrap();
    let input = input.bind(&spec(DataType::F32, &[None, None])).unwrap();
    let long = Sound {
        rate: 1000,
        samples: vec![0.0; 2_000_000],
    };
    let error = input.apply(vec![long], &AudioLimits::default()).unwrap_err();
    assert!(matches!(error, AudioError::TooLarge { .. }), "{error}");
}

#[test]
fn recognises_extractors_by_their_files() {
    let spectrogram =
        AudioProcessor::parse(r#"{"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}"#);
    assert!(
        spectrogram
            .unwrap_err()
            .to_string()
            .contains("WhisperFeatureExtractor makes spectrograms")
    );
    for picture in [
        r#"{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5]}"#,
        r#"{"feature_extractor_type": "ViTFeatureExtractor", "image_mean": [0.5]}"#,
        r#"{"do_resize": true}"#,
    ] {
        assert_eq!(AudioProcessor::parse(picture), Ok(None));
    }
    let table = [
        ("{", "invalid JSON"),
        (
            r#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 2}"#,
            "one channel",
        ),
        (r#"{"sampling_rate": "fast"}"#, "\"sampling_rate\": expected a number"),
        (
            r#"{"sampling_rate": 1}"#,
            "\"sampling_rate\": expected a number from 1000",
        ),
    ];
    for (text, problem) in table {
        let error = AudioProcessor::parse(text).unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn errors_in_a_manifest_name_the_key_and_the_nearest_known_one() {
    let table = [
        (json!({"sample_rate": 16000}), "did you mean \"sampling_rate\"?"),
        (json!({"xyz": 1}), "\"xyz\" is not a key of \"audio\""),
        (json!({"dtype": "int8"}), "\"dtype\""),
        (json!({"stride_seconds": 1}), "requires \"chunk_seconds\""),
        (json!({"chunk_seconds": 1, "stride_seconds": 2}), "longer than"),
        (
            json!({"chunk_seconds": 0}),
            "\"chunk_seconds\": expected a number from 0.001",
        ),
        (json!(5), "\"audio\""),
    ];
    for (value, problem) in table {
        let error = AudioProcessor::from_manifest(&value).unwrap_err().to_string();
        assert!(error.contains(problem), "{value}: {error}");
    }
    let int16 = AudioProcessor::from_manifest(&json!({"dtype": "int16"})).unwrap();
    assert!(int16.bind(&spec(DataType::F32, &[None])).is_err());
    assert!(int16.bind(&spec(DataType::I64, &[None])).is_err());
    assert!(int16.bind(&spec(DataType::I16, &[None, None, None, None])).is_err());
}

/// A 16-bit WAV file with these header fields.
fn header(tag: u16, channels: u16, rate: u32, block: u16, bits: u16, data: u32, samples: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    file.extend(tag.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend([0; 4]);
    file.extend(block.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend(data.to_le_bytes());
    file.extend(samples);
    file
}

#[test]
fn rejects_headers_that_contradict_the_file() {
    let four = [0u8; 4];
    let table = [
        (header(1, 0, 16_000, 2, 16, 4, &four), "0 channels"),
        (header(1, 65, 16_000, 130, 16, 4, &four), "channels of a sound: 65"),
        (header(1, 1, 0, 2, 16, 4, &four), "the rate is 0 samples per second"),
        (header(1, 1, 1, 2, 16, 4, &four), "the rate is 1 samples per second"),
        (header(1, 1, u32::MAX, 2, 16, 4, &four), "samples per second"),
        (
            header(1, 2, 16_000, 3, 16, 4, &four),
            "cannot be divided among 2 channels",
        ),
        (header(1, 1, 16_000, 0, 16, 4, &four), "frames of 0 bytes"),
        (header(1, 1, 16_000, 2, 0, 4, &four), "samples of 0 bits"),
        (header(1, 1, 16_000, 2, 24, 4, &four), "do not fit into 2 bytes"),
        (header(1, 1, 16_000, 5, 40, 4, &four), "samples of 5 bytes"),
        (header(3, 1, 16_000, 2, 16, 4, &four), "samples of 2 bytes"),
        (header(2, 1, 16_000, 2, 16, 4, &four), "compressed (format 2)"),
        (
            header(1, 1, 16_000, 2, 16, 1000, &four),
            "should have 1000 bytes, but only 4 follow",
        ),
        (header(1, 1, 16_000, 2, 16, 0, &four), "no samples"),
        (header(1, 1, 16_000, 2, 16, u32::MAX, &[]), "no samples"),
        (
            header(3, 1, 16_000, 4, 32, 4, &f32::NAN.to_le_bytes()),
            "sample 0 of the sound is not a finite",
        ),
        (b"RF64\0\0\0\0WAVE".to_vec(), "use RIFF"),
        (b"RIFF\0\0\0\0AVI ".to_vec(), "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE".to_vec(), "no fmt chunk"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0".to_vec(), "before its fmt chunk"),
        (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff".to_vec(), "longer than the file"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\x01\0".to_vec(), "has 2 bytes"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff".to_vec(), "no fmt chunk"),
        (Vec::new(), "not a WAV file"),
    ];
    for (file, problem) in table {
        let error = read(&file, &AudioLimits::default()).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    let few = AudioLimits {
        samples: 1,
        ..AudioLimits::default()
    };
    let error = read(&header(1, 1, 16_000, 2, 16, 4, &four), &few).unwrap_err();
    assert!(
        matches!(error, AudioError::TooLarge { given: 2, limit: 1, .. }),
        "{error}"
    );
}

#[test]
fn the_header_predicts_the_memory_of_a_sound() {
    let probe = probe(&wav("i16_stereo"), &AudioLimits::default()).unwrap();
    assert_eq!((probe.rate, probe.channels, probe.frames), (16_000, 2, 80));
    assert_eq!(probe.memory(16_000), 320);
    assert_eq!(probe.memory(8_000), 320 + 160 + 41 * 8);
    assert!(is_wav(&wav("i16")) && !is_wav(b"RIFF"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let file = [b"RIFF\0\0\0\0WAVE".as_slice(), &bytes].concat();
        let _ = read(&file, &AudioLimits::default());
        let _ = read(&bytes, &AudioLimits::default());
    }

    #[test]
    fn changed_files_are_read_or_refused(
        which in 0usize..6, changes in prop::collection::vec((0usize..300, any::<u8>()), 1..4), cut in 0usize..400
    ) {
        let names = ["u8", "i24_6_channels", "f64", "mu_law_stereo", "odd_chunks", "valid_bits"];
        let mut file = wav(names[which]);
        for (at, byte) in changes {
            if let Some(slot) = file.get_mut(at) {
                *slot = byte;
            }
        }
        file.truncate(file.len().saturating_sub(cut.saturating_sub(200)));
        let limits = AudioLimits::default();
        if let Ok(sound) = read(&file, &limits) {
            prop_assert!(sound.samples.iter().all(|sample| sample.is_finite()));
            let probe = probe(&file, &limits).unwrap();
            prop_assert_eq!(probe.frames, sound.samples.len() as u64);
        }
    }
}
