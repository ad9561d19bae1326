use serde_json::{Value as Json, json};

use super::{LIMITS, fixture, input, json as fixture_json, nchw, nhwc, noise, open_input, pair, positions};
use crate::tensor::{DataType, Dim, Tensor};
use crate::vision::{Picture, Placement, Processor, ProcessorError, read};

fn processor(config: &Json) -> Processor {
    Processor::parse(&config.to_string()).unwrap().unwrap()
}

fn manifest(config: &Json) -> Processor {
    Processor::parse_manifest(&config.to_string(), None).unwrap()
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().unwrap()
}

/// One level of 255, in the units of the tensor.
fn one_level(config: &Json) -> f32 {
    let keys = config.get("pretrained_cfg").unwrap_or(config);
    let scale = match (&keys["do_rescale"], &keys["rescale_factor"], &keys["rescale_value"]) {
        (Json::Bool(false), _, _) => 1.0,
        (_, Json::Number(factor), _) | (_, _, Json::Number(factor)) => factor.as_f64().unwrap() as f32,
        _ => 1.0 / 255.0,
    };
    let smallest = |value: &Json| -> f32 {
        let values = value.as_array().into_iter().flatten();
        values.map(|value| value.as_f64().unwrap() as f32).fold(1.0, f32::min)
    };
    let std = match keys["do_normalize"] {
        Json::Bool(false) => 1.0,
        _ => smallest(&keys["image_std"]).min(smallest(&keys["std"])),
    };
    let again = if keys["include_top"] == json!(true) { std } else { 1.0 };
    scale / std / again
}

#[test]
fn tensors_of_every_processor_match_the_reference() {
    let mut wrong = Vec::new();
    let (mut equal, mut all) = (0usize, 0usize);
    for case in fixture_json("processors.json").as_array().unwrap() {
        let (config, processor) = match (&case["config"], &case["manifest"]) {
            (Json::Null, config) => (config, manifest(config)),
            (config, _) => (config, processor(config)),
        };
        let bound = processor.bind(&open_input()).unwrap();
        let level = one_level(config) * 1.01 + 1e-5;
        for row in case["rows"].as_array().unwrap() {
            let picture = noise(pair(&row["picture"]), row["smooth"].as_bool().unwrap());
            let (tensor, _) = match bound.apply(picture) {
                Ok(made) => made,
                Err(error) => {
                    wrong.push(format!("{config}: {}: {error}", row["picture"]));
                    continue;
                }
            };
            let shape: Vec<usize> = serde_json::from_value(row["shape"].clone()).unwrap();
            if tensor.shape() != shape {
                wrong.push(format!(
                    "{config}: {}: {:?}, not {shape:?}",
                    row["picture"],
                    tensor.shape()
                ));
                continue;
            }
            let samples = row["samples"].as_array().unwrap();
            let places = positions(120, tensor.len(), row["seed"].as_u64().unwrap());
            let mut worst = 0.0f32;
            for (place, sample) in places.zip(samples) {
                let sample = sample.as_f64().unwrap() as f32;
                let difference = (floats(&tensor)[place] - sample).abs();
                worst = worst.max(difference);
                equal += usize::from(difference <= 1e-6 * sample.abs().max(1.0));
                all += 1;
            }
            if worst > level {
                wrong.push(format!(
                    "{config}: {}: differs by {worst}, a level is {level}",
                    row["picture"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(equal * 100 > all * 90, "{equal} of {all} are equal");
}

/// Only the needed part of a JPEG file is decoded.
#[test]
fn reading_for_a_processor_makes_the_same_tensor_as_reading_the_whole() {
    let check = |processor: &Processor, name: &str| {
        let bound = processor.bind(&open_input()).unwrap();
        let file = std::fs::read(fixture("pictures").join(name)).unwrap();
        let whole = read(&file, &LIMITS).and_then(|picture| bound.apply(picture));
        assert_eq!(bound.read(&file, &LIMITS), whole, "{name}: {:?}", processor.steps());
    };
    for crop in [3, 12, 20] {
        let processor = manifest(&json!({
            "size": {"shortest_edge": 12}, "do_resize": true, "resample": 3, "do_center_crop": true,
            "crop_size": {"height": crop, "width": crop}, "do_rescale": true,
        }));
        for name in [
            "422.jpg",
            "444.jpg",
            "grey.jpg",
            "progressive.jpg",
            "restarts.jpg",
            "rgb.png",
        ] {
            check(&processor, name);
        }
        (1..=8).for_each(|number| check(&processor, &format!("orientation-{number}.jpg")));
    }
    for case in fixture_json("processors.json").as_array().unwrap() {
        let processor = match (&case["config"], &case["manifest"]) {
            (Json::Null, config) => manifest(config),
            (config, _) => processor(config),
        };
        check(&processor, "large-420.jpg");
    }
}

#[test]
fn a_processor_survives_a_round_trip_through_the_journal() {
    for case in fixture_json("processors.json").as_array().unwrap() {
        let processor = match (&case["config"], &case["manifest"]) {
            (Json::Null, config) => manifest(config),
            (config, _) => processor(config),
        };
        let text = serde_json::to_string(&processor).unwrap();
        assert_eq!(serde_json::from_str::<Processor>(&text).unwrap(), processor, "{text}");
    }
}

const VIT: &str = r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 8},
    "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}"#;

#[test]
fn the_last_axis_may_be_the_channels() {
    let processor = Processor::parse(VIT).unwrap().unwrap();
    let first = processor.bind(&nchw(3, 6, 8)).unwrap();
    let last = processor.bind(&nhwc(3, 6, 8)).unwrap();
    let (first, _) = first.apply(noise((40, 30), true)).unwrap();
    let (last, _) = last.apply(noise((40, 30), true)).unwrap();
    assert_eq!(first.shape(), [1, 3, 6, 8]);
    assert_eq!(last.shape(), [1, 6, 8, 3]);
    for y in 0..6 {
        for x in 0..8 {
            for c in 0..3 {
                assert_eq!(floats(&first)[(c * 6 + y) * 8 + x], floats(&last)[(y * 8 + x) * 3 + c]);
            }
        }
    }
}

#[test]
fn half_floats_are_rounded_floats() {
    let processor = Processor::parse(VIT).unwrap().unwrap();
    let open = || Dim::Dynamic(None);
    let half = input(DataType::F16, [open(), Dim::Fixed(3), open(), open()]);
    let (half, _) = processor.bind(&half).unwrap().apply(noise((40, 30), false)).unwrap();
    let (full, _) = processor
        .bind(&nchw(3, 6, 8))
        .unwrap()
        .apply(noise((40, 30), false))
        .unwrap();
    let half: &[half::f16] = half.as_slice().unwrap();
    for (half, full) in half.iter().zip(floats(&full)) {
        assert_eq!(*half, half::f16::from_f32(*full));
    }
}

#[test]
fn a_uint8_input_gets_bytes_unless_the_file_scales_them() {
    let dims = [Dim::Fixed(1), Dim::Fixed(6), Dim::Fixed(8), Dim::Fixed(3)];
    let bytes = input(DataType::U8, dims);
    let picture = noise((8, 6), false);
    let levels = picture.rgb().to_vec();
    let bound = Processor::for_input(&bytes).unwrap().bind(&bytes).unwrap();
    let (tensor, _) = bound.apply(picture.clone()).unwrap();
    assert_eq!(tensor.as_slice::<u8>().unwrap(), levels);

    let flipped = manifest(&json!({"channel_order": "BGR"})).bind(&bytes).unwrap();
    let (tensor, _) = flipped.apply(picture).unwrap();
    assert_eq!(tensor.as_slice::<u8>().unwrap()[..3], [levels[2], levels[1], levels[0]]);

    let refusal = Processor::parse(VIT)
        .unwrap()
        .unwrap()
        .bind(&bytes)
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("the model takes bytes"), "{refusal}");
}

#[test]
fn an_input_with_one_channel_gets_grey_with_pillows_weights() {
    let bound = manifest(&json!({"do_rescale": false})).bind(&nchw(1, 1, 2)).unwrap();
    let picture = Picture {
        width: 2,
        height: 1,
        rgb: vec![255, 0, 0, 10, 200, 30],
    };
    let (tensor, _) = bound.apply(picture).unwrap();
    // (255 * 19595 + 0x8000) >> 16 and (10 * 19595 + 200 * 38470 + 30 * 7471 + 0x8000) >> 16
    assert_eq!(floats(&tensor), [76.0, 124.0]);
}

#[test]
fn the_size_comes_from_the_model_if_the_file_has_none() {
    let bound = manifest(&json!({})).bind(&nchw(3, 20, 30)).unwrap();
    assert_eq!(bound.output_size(), Some((20, 30)));
    let processor = Processor::parse(r#"{"image_processor_type": "CLIPImageProcessor"}"#)
        .unwrap()
        .unwrap();
    assert_eq!(processor.bind(&open_input()).unwrap().output_size(), Some((224, 224)));
    assert_eq!(
        processor.bind(&nchw(3, 336, 336)).unwrap().output_size(),
        Some((336, 336))
    );
    assert_eq!(manifest(&json!({})).bind(&open_input()), Err(ProcessorError::OpenSize));
}

#[test]
fn timms_test_size_applies_if_it_matches_the_model() {
    let processor = processor(&json!({"pretrained_cfg": {
        "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.9, "test_crop_pct": 1.0,
    }}));
    assert_eq!(
        processor.bind(&nchw(3, 288, 288)).unwrap().output_size(),
        Some((288, 288))
    );
    assert_eq!(
        processor.bind(&nchw(3, 224, 224)).unwrap().output_size(),
        Some((224, 224))
    );
    assert!(processor.bind(&nchw(3, 256, 256)).is_err());
}

#[test]
fn the_error_of_a_size_mismatch_names_both_sizes() {
    let processor = Processor::parse(VIT).unwrap().unwrap();
    let refusal = processor.bind(&nchw(3, 224, 224)).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "the file makes images of 6 x 8, but the model takes 224 x 224 (height x width)"
    );
    let open = processor_of_open_size()
        .bind(&nchw(3, 224, 224))
        .unwrap_err()
        .to_string();
    assert!(open.contains("depends on the image"), "{open}");
}

fn processor_of_open_size() -> Processor {
    processor(
        &json!({"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 80, "longest_edge": 133}}),
    )
}

#[test]
fn rejects_inputs_that_cannot_take_images_and_says_why() {
    let processor = Processor::parse(VIT).unwrap().unwrap();
    let refusal = |spec| processor.bind(&spec).unwrap_err().to_string();
    let open = || Dim::Dynamic(None);
    let many = input(DataType::F32, [Dim::Fixed(8), Dim::Fixed(3), open(), open()]);
    assert!(refusal(many).contains("8 images at a time"));
    let whole = input(DataType::I64, [open(), Dim::Fixed(3), open(), open()]);
    assert!(refusal(whole).contains("float32, float16 or uint8"));
    let four = input(DataType::F32, [open(), Dim::Fixed(4), Dim::Fixed(9), Dim::Fixed(9)]);
    assert!(refusal(four).contains("channels"));
    let mut flat = open_input();
    flat.dims = Some(vec![open(), Dim::Fixed(768)]);
    assert!(refusal(flat).contains("four axes"));
}

#[test]
fn the_shape_of_an_input_may_imply_images() {
    let bound = |spec| Processor::for_input(&spec).map(|processor| processor.bind(&spec).unwrap().output_size());
    assert_eq!(bound(nchw(3, 20, 30)), Some(Some((20, 30))));
    assert_eq!(bound(nhwc(1, 28, 28)), Some(Some((28, 28))));
    let open = || Dim::Dynamic(None);
    assert_eq!(
        bound(input(DataType::F32, [open(), Dim::Fixed(3), open(), open()])),
        Some(None)
    );
    assert_eq!(bound(open_input()), None);
    assert_eq!(bound(nchw(5, 20, 30)), None);
}

#[test]
fn coordinates_are_mapped_back_to_the_image() {
    let corners = |placement: &Placement| {
        let (left, top, width, height) = placement.visible;
        let (left, top) = (left as f32, top as f32);
        let first = placement.map_back(left, top);
        let last = placement.map_back(left + width as f32, top + height as f32);
        [first.0, first.1, last.0, last.1].map(f32::round)
    };
    // 640 x 480 in 160 x 160: 160 x 120, 20 pixels down.
    let bound = manifest(&json!({"letterbox": true, "size": 160}))
        .bind(&open_input())
        .unwrap();
    let (_, placement) = bound.apply(noise((640, 480), true)).unwrap();
    assert_eq!(placement.original, (640, 480));
    assert_eq!(placement.input, (160, 160));
    assert_eq!(placement.visible, (0, 20, 160, 120));
    assert_eq!(corners(&placement), [0.0, 0.0, 640.0, 480.0]);
    // A centre crop shows a part: 300 x 200 becomes 150 x 100, cropped to 100 x 100.
    let clip = json!({"image_processor_type": "CLIPImageProcessor", "size": 100, "crop_size": 100});
    let bound = processor(&clip).bind(&open_input()).unwrap();
    let (_, placement) = bound.apply(noise((300, 200), true)).unwrap();
    assert_eq!(corners(&placement), [50.0, 0.0, 250.0, 200.0]);
    // DETR pads below and to the right.
    let detr = json!({"image_processor_type": "DetrImageProcessor", "size": {"height": 50, "width": 60}, "pad_size": {"height": 80, "width": 80}});
    let bound = processor(&detr).bind(&nchw(3, 80, 80)).unwrap();
    let (tensor, placement) = bound.apply(noise((120, 100), true)).unwrap();
    assert_eq!(placement.visible, (0, 0, 60, 50));
    assert_eq!(corners(&placement), [0.0, 0.0, 120.0, 100.0]);
    assert_eq!(floats(&tensor)[79], 0.0);
}

#[test]
fn only_the_visible_part_of_a_narrow_image_is_resized() {
    let clip = json!({"image_processor_type": "CLIPImageProcessor"});
    let bound = processor(&clip).bind(&open_input()).unwrap();
    let (tensor, _) = bound.apply(noise((1, 60_000), false)).unwrap();
    assert_eq!(tensor.shape(), [1, 3, 224, 224]);
    let kept = processor_of_open_size().bind(&open_input()).unwrap();
    let refusal = kept.apply(noise((1, 60_000), false)).unwrap_err().to_string();
    assert!(refusal.contains("resizing results in 0 x"), "{refusal}");
}

#[test]
fn describes_the_steps_in_order() {
    let steps = |config: Json| processor(&config).steps();
    assert_eq!(
        steps(json!({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "resample": 3})),
        [
            "decode to RGB, upright",
            "resize the shortest edge to 256, bicubic",
            "crop the centre to 224 x 224",
            "scale by 1/255",
            "subtract the mean (0.5, 0.5, 0.5) and divide by (0.5, 0.5, 0.5)",
        ]
    );
    assert_eq!(
        manifest(&json!({"letterbox": true, "layout": "NHWC", "channel_order": "BGR"})).steps(),
        [
            "decode to RGB, upright",
            "resize to fit into the model's size, keeping the aspect ratio, bilinear without antialias",
            "pad to the model's size on all sides with 114",
            "scale by 1/255",
            "swap red and blue",
            "order the axes as NHWC",
        ]
    );
}

#[test]
fn the_memory_estimate_covers_the_image_and_the_tensor() {
    let bytes = std::fs::read(fixture("pictures/large-420.jpg")).unwrap();
    let probe = crate::vision::probe(&bytes, &LIMITS).unwrap();
    assert_eq!(probe.picture_bytes(), 61 * 43 * 3);
    assert!(probe.memory() >= probe.picture_bytes());
    let bound = manifest(&json!({"size": 1000})).bind(&open_input()).unwrap();
    assert!(bound.memory(&probe) >= 1000 * 1000 * (3 + 12));
}
