use serde_json::json;

use crate::vision::{Processor, ProcessorError};

fn parse(config: &serde_json::Value) -> Result<Option<Processor>, ProcessorError> {
    Processor::parse(&config.to_string())
}

fn refusal(config: &serde_json::Value) -> String {
    parse(config).unwrap_err().to_string()
}

fn manifest_refusal(config: &serde_json::Value) -> String {
    Processor::parse_manifest(&config.to_string(), None)
        .unwrap_err()
        .to_string()
}

#[test]
fn files_without_image_steps_are_not_processors() {
    let sound = json!({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000,
        "do_normalize": true, "feature_size": 1, "padding_value": 0.0});
    assert_eq!(parse(&sound), Ok(None));
    assert_eq!(
        parse(&json!({"architectures": ["BertModel"], "hidden_size": 384})),
        Ok(None)
    );
    assert_eq!(parse(&json!({})), Ok(None));
}

#[test]
fn old_and_new_names_mean_the_same_processor() {
    let of = |key: &str, name: &str| parse(&json!({key: name, "size": 224})).unwrap().unwrap().steps();
    let current = of("image_processor_type", "CLIPImageProcessor");
    assert_eq!(of("feature_extractor_type", "CLIPFeatureExtractor"), current);
    assert_eq!(of("image_processor_type", "CLIPImageProcessorFast"), current);
    let nested = json!({"image_processor": {"image_processor_type": "CLIPImageProcessor", "size": 224}});
    assert_eq!(parse(&nested).unwrap().unwrap().steps(), current);
}

#[test]
fn the_processor_determines_the_meaning_of_a_single_number() {
    let resize = |name: &str| {
        let steps = parse(&json!({"feature_extractor_type": name, "size": 300}))
            .unwrap()
            .unwrap()
            .steps();
        steps[1].clone()
    };
    assert_eq!(resize("ViTFeatureExtractor"), "resize to 300 x 300, bilinear");
    assert_eq!(
        resize("CLIPFeatureExtractor"),
        "resize the shortest edge to 300, bicubic"
    );
    assert_eq!(
        resize("DetrFeatureExtractor"),
        "resize the shortest edge to 300, the longest to at most 1333, bilinear"
    );
    assert_eq!(resize("SomethingNewFeatureExtractor"), "resize to 300 x 300, bilinear");
}

#[test]
fn the_keys_determine_the_steps_of_an_unknown_processor() {
    let config = json!({"image_processor_type": "NewImageProcessor", "do_resize": true,
        "size": {"shortest_edge": 256}, "do_center_crop": true, "crop_size": {"height": 224, "width": 224},
        "resample": 3, "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "processor_class": null});
    assert_eq!(
        parse(&config).unwrap().unwrap().steps(),
        [
            "decode to RGB, upright",
            "resize the shortest edge to 256, bicubic",
            "crop the centre to 224 x 224",
            "scale by 1/255",
            "subtract the mean (0.485, 0.456, 0.406) and divide by (0.229, 0.224, 0.225)",
        ]
    );
}

#[test]
fn errors_name_the_unsupported_step() {
    assert_eq!(
        refusal(&json!({"image_processor_type": "Owlv2ImageProcessor", "size": {"height": 960, "width": 960}})),
        "Owlv2ImageProcessor needs resizing with a Gaussian filter, which is not supported"
    );
    assert_eq!(
        refusal(&json!({"image_processor_type": "NewImageProcessor", "size": 224, "do_pan_and_scan": true})),
        "NewImageProcessor needs the step \"do_pan_and_scan\", which is not supported"
    );
    assert!(
        refusal(&json!({"image_processor_type": "NewImageProcessor", "size": 224, "patch_size": 14}))
            .contains("\"patch_size\"")
    );
    let harmless =
        json!({"image_processor_type": "SegformerImageProcessor", "do_reduce_labels": true, "do_thing": false});
    assert!(parse(&harmless).unwrap().is_some());
}

#[test]
fn errors_name_the_key_of_an_invalid_value() {
    let vit = |key: &str, value: serde_json::Value| {
        refusal(&json!({"image_processor_type": "ViTImageProcessor", key: value}))
    };
    assert!(vit("size", json!("large")).starts_with("size: "));
    assert!(vit("size", json!({"height": 224})).contains("\"height\" and \"width\""));
    assert!(vit("size", json!({"height": 0, "width": 5})).contains("0 is not a valid edge"));
    assert!(vit("size", json!(1_000_000)).contains("expected 1 to 16384"));
    assert!(vit("resample", json!(9)).starts_with("resample: "));
    assert!(vit("image_mean", json!([0.5, 0.5])).contains("it has 2 numbers"));
    assert!(vit("image_std", json!([0.5, 0.0, 0.5])).contains("no 0 in"));
    assert!(vit("do_resize", json!("yes")).starts_with("do_resize: "));
    assert_eq!(Processor::parse("[1]"), Err(ProcessorError::NotAnObject));
    assert!(matches!(Processor::parse("{"), Err(ProcessorError::Json(_))));
}

#[test]
fn a_misspelt_key_of_a_manifest_is_an_error_with_the_nearest_one() {
    assert_eq!(
        manifest_refusal(&json!({"image_means": [0.5, 0.5, 0.5]})),
        "\"image_means\" is not a key of \"image\"; did you mean \"image_mean\"?"
    );
    assert_eq!(
        manifest_refusal(&json!({"size": {"hight": 224, "width": 224}})),
        "\"size.hight\" is not a key of \"image\"; did you mean \"height\"?"
    );
    assert!(manifest_refusal(&json!({"layout": "CHW"})).starts_with("layout: "));
    assert!(manifest_refusal(&json!({"antialias": false, "resample": "bicubic"})).starts_with("antialias: "));
}

#[test]
fn a_manifest_overrides_single_keys_of_a_file() {
    let file = json!({"image_processor_type": "ViTImageProcessor", "size": 224, "resample": 2});
    let base = parse(&file).unwrap().unwrap();
    let both = Processor::parse_manifest(r#"{"resample": "lanczos", "do_normalize": false}"#, Some(&base)).unwrap();
    assert_eq!(
        both.steps(),
        [
            "decode to RGB, upright",
            "resize to 224 x 224, lanczos",
            "scale by 1/255"
        ]
    );
}
