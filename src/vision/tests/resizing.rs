use proptest::prelude::*;

use super::{bytes_of, json, noise, number, pair, positions};
use crate::vision::resample::{Filter, Part, Pixels, Resampling, resized_part};
use crate::vision::size::{Size, Target};

fn filter(number: u32) -> Filter {
    serde_json::from_value(number.into()).unwrap()
}

#[test]
fn levels_of_every_filter_are_within_one_of_pillow() {
    let mut equal = 0usize;
    let mut all = 0usize;
    for case in json("resizing.json").as_array().unwrap() {
        let (from, to) = (pair(&case["from"]), pair(&case["to"]));
        let picture = noise(from, case["smooth"].as_bool().unwrap());
        let source = Pixels {
            width: from.0,
            height: from.1,
            channels: 3,
            bytes: picture.rgb(),
        };
        let resampling = Resampling {
            filter: filter(number(&case["filter"])),
            antialias: true,
        };
        let resized = resized_part(source, to, Part::whole(to), resampling).unwrap();
        assert_eq!(resized.len(), (to.0 * to.1 * 3) as usize);
        let seed = case["seed"].as_u64().unwrap();
        let levels = bytes_of(&case["levels"]);
        for (place, level) in positions(400, resized.len(), seed).zip(levels) {
            let difference = resized[place].abs_diff(level);
            assert!(
                difference <= 1,
                "{from:?} to {to:?}, {resampling:?}: {} at {place}, not {level}",
                resized[place]
            );
            equal += usize::from(difference == 0);
            all += 1;
        }
    }
    assert!(equal * 100 > all * 95, "{equal} of {all} are equal");
}

#[test]
fn filters_are_parsed_from_numbers_and_names() {
    let table = [
        ("0", Filter::Nearest),
        ("1", Filter::Lanczos),
        ("2", Filter::Bilinear),
        ("3", Filter::Bicubic),
        ("4", Filter::Box),
        ("5", Filter::Hamming),
        ("\"bicubic\"", Filter::Bicubic),
        ("\"PILImageResampling.LANCZOS\"", Filter::Lanczos),
    ];
    for (text, filter) in table {
        assert_eq!(serde_json::from_str::<Filter>(text).unwrap(), filter, "{text}");
    }
    let error = serde_json::from_str::<Filter>("7").unwrap_err().to_string();
    assert!(error.contains("5 or \"hamming\""), "{error}");
}

#[test]
fn sizes_are_rounded_as_in_the_references() {
    let shortest = |edge| Target::Shortest {
        edge,
        longest: None,
        multiple: 1,
    };
    let detr = Target::DetrShortest {
        edge: 800,
        longest: Some(1333),
        multiple: 1,
    };
    type Row = (Target, (u32, u32), (u64, u64));
    let table: [Row; 12] = [
        // int(256 * 500 / 333) = 384
        (shortest(256), (500, 333), (384, 256)),
        (shortest(256), (333, 500), (256, 384)),
        (shortest(224), (224, 300), (224, 300)),
        (shortest(224), (1, 60_000), (224, 13_440_000)),
        (detr, (640, 480), (1066, 800)),
        (detr, (480, 640), (800, 1066)),
        (detr, (2000, 400), (1333, 267)),
        (Target::Longest(1024), (1023, 7), (1024, 7)),
        (Target::Within(Size { height: 90, width: 120 }), (201, 333), (54, 90)),
        (Target::Letterbox(Size::square(640)), (1000, 333), (640, 213)),
        // round(0.5) is 0 in Python, and 0 is not a valid size.
        (Target::Letterbox(Size::square(640)), (1280, 1), (640, 0)),
        (Target::Multiple(32), (100, 31), (96, 0)),
    ];
    for (target, size, expected) in table {
        assert_eq!(target.of(size), expected, "{target:?} of {size:?}");
    }
}

proptest! {
    /// Resizing a part gives the same pixels as that part of the whole resized image.
    #[test]
    fn a_resized_part_equals_the_part_of_the_whole(
        from in (1u32..90, 1u32..90),
        to in (1u32..120, 1u32..120),
        cut in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        number in 0u32..6,
        grey: bool,
    ) {
        let channels = if grey { 1 } else { 3 };
        let picture = noise(from, false);
        let count = (from.0 * from.1) as usize * channels;
        let source = Pixels { width: from.0, height: from.1, channels, bytes: &picture.rgb()[..count] };
        let resampling = Resampling { filter: filter(number), antialias: true };
        let all = resized_part(source, to, Part::whole(to), resampling).unwrap();
        let between = |edge: u32, at: f64| (f64::from(edge) * at) as u32;
        let (left, top) = (between(to.0, cut.0), between(to.1, cut.1));
        let part = Part {
            left,
            top,
            width: (between(to.0 - left, cut.2)).max(1),
            height: (between(to.1 - top, cut.3)).max(1),
        };
        let got = resized_part(source, to, part, resampling).unwrap();
        let rows = all.chunks_exact(to.0 as usize * channels).skip(part.top as usize).take(part.height as usize);
        let from_whole = rows.flat_map(|row| &row[part.left as usize * channels..][..part.width as usize * channels]);
        for (one, other) in got.iter().zip(from_whole) {
            prop_assert!(one.abs_diff(*other) <= 1);
        }
    }

    /// Every rule computes a size for every image without a panic, and keeps its promise.
    #[test]
    fn rules_keep_their_promises(
        width in 1u32..100_000,
        height in 1u32..100_000,
        edge in 1u32..2000,
        longest in 1u32..3000,
        multiple in 1u32..64,
    ) {
        let size = (width, height);
        let (w, h) = Target::Shortest { edge, longest: None, multiple: 1 }.of(size);
        prop_assert_eq!(w.min(h), u64::from(edge));
        let (w, h) = Target::Shortest { edge, longest: Some(longest), multiple }.of(size);
        prop_assert!(w % u64::from(multiple) == 0 && h % u64::from(multiple) == 0);
        prop_assert!(w.max(h) <= u64::from(longest.max(edge)).next_multiple_of(multiple.into()));
        let (w, h) = Target::DetrShortest { edge, longest: Some(longest), multiple: 1 }.of(size);
        prop_assert!(w.min(h) <= u64::from(edge) || (w, h) == (width.into(), height.into()));
        let (w, h) = Target::Within(Size { height: edge, width: longest }).of(size);
        prop_assert!(w <= u64::from(longest) && h <= u64::from(edge));
        let (w, h) = Target::Longest(edge).of(size);
        prop_assert_eq!(w.max(h), u64::from(edge));
        let (w, h) = Target::Letterbox(Size { height: edge, width: longest }).of(size);
        prop_assert!(w <= u64::from(longest) && h <= u64::from(edge));
        let (w, h) = Target::VilT { shorter: edge, multiple }.of(size);
        prop_assert!(w % u64::from(multiple) == 0 && h % u64::from(multiple) == 0);
        Target::Cover(Size::square(edge)).of(size);
        Target::Contain(Size::square(edge)).of(size);
        Target::Multiple(multiple).of(size);
        Target::Dpt { size: Size::square(edge), keep_aspect_ratio: true, multiple }.of(size);
    }
}
