//! The image processors of transformers: their defaults, and the rule for their sizes. Taken from
//! transformers 4.57; the names cover `..ImageProcessor`, `..ImageProcessorFast` and the older
//! `..FeatureExtractor`.

use crate::vision::resample::Filter;

/// The rule that a processor uses to resize and crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The keys of the size decide.
    Plain,
    /// Below 384 pixels, the shortest edge divided by `crop_pct`, then a crop; else the exact size.
    ConvNext,
    /// The shortest edge times 256 / 224, then a crop.
    Levit,
    /// The shortest edge divided by `crop_pct`, then a crop.
    PoolFormer,
    /// A crop by the ratio of two sizes, then the exact size.
    Perceiver,
    Detr,
    Yolos,
    /// The shortest edge, then rounded up to a multiple.
    UpToMultiple,
    Vilt,
    Sam,
    Dpt,
    Glpn,
    /// timm's evaluation transform.
    Timm,
}

/// The default size of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultSize {
    /// No default; the model must have a size.
    Open,
    Square(u32),
    Shortest(u32),
    ShortestUpTo(u32, u32),
    Longest(u32),
}

/// The default mean and standard deviation of processors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norm {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

const HALF: Norm = Norm {
    mean: [0.5; 3],
    std: [0.5; 3],
};
const IMAGENET: Norm = Norm {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};
const CLIP: Norm = Norm {
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

/// The defaults of a processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Family {
    /// The name without its ending.
    pub stem: &'static str,
    pub rule: Rule,
    pub size: DefaultSize,
    /// Whether a size of one number means both edges, not the shortest one.
    pub square: bool,
    pub filter: Filter,
    pub crops: bool,
    pub crop: Option<u32>,
    pub rescales: bool,
    pub normalizes: bool,
    pub norm: Option<Norm>,
    /// Whether the channel order is blue, green, red.
    pub flips: bool,
    pub multiple: Option<u32>,
    pub crop_pct: Option<f64>,
    /// The edge of the square that the processor pads to by default.
    pub pads: Option<u32>,
    /// Whether normalized levels are divided by the standard deviation a second time.
    pub divides_again: bool,
}

impl Family {
    const fn new(stem: &'static str, size: DefaultSize, filter: Filter, norm: Norm) -> Self {
        Self {
            stem,
            rule: Rule::Plain,
            square: matches!(size, DefaultSize::Square(_) | DefaultSize::Open),
            size,
            filter,
            crops: false,
            crop: None,
            rescales: true,
            normalizes: true,
            norm: Some(norm),
            flips: false,
            multiple: None,
            crop_pct: None,
            pads: None,
            divides_again: false,
        }
    }

    const fn rule(mut self, rule: Rule) -> Self {
        self.rule = rule;
        self
    }

    const fn cropping(mut self, edge: u32) -> Self {
        self.crops = true;
        self.crop = Some(edge);
        self
    }

    /// Sets the size of a crop that the file may enable.
    const fn crop_on_demand(mut self, edge: u32) -> Self {
        self.crop = Some(edge);
        self
    }

    const fn multiple(mut self, multiple: u32) -> Self {
        self.multiple = Some(multiple);
        self
    }

    const fn crop_pct(mut self, crop_pct: f64) -> Self {
        self.crop_pct = Some(crop_pct);
        self
    }

    const fn not_normalizing(mut self) -> Self {
        self.normalizes = false;
        self
    }

    /// The entry for unknown processors and files; the keys decide.
    const UNKNOWN: Self = Self {
        rule: Rule::Plain,
        normalizes: false,
        norm: None,
        ..Self::new("", DefaultSize::Open, Filter::Bilinear, HALF)
    };

    /// The entry for the name of a processor in a file.
    pub(super) fn of(name: &str) -> Self {
        let stem = stem(name);
        let known = FAMILIES.iter().find(|family| family.stem == stem);
        known.copied().unwrap_or(Self::UNKNOWN)
    }
}

/// Removes the suffix that distinguishes the versions of a processor.
pub(super) fn stem(name: &str) -> &str {
    let name = name.strip_suffix("Fast").unwrap_or(name);
    name.strip_suffix("ImageProcessor")
        .or_else(|| name.strip_suffix("FeatureExtractor"))
        .unwrap_or(name)
}

/// The name of timm's files.
pub(super) const TIMM: &str = "timm";

const DETR_SIZE: DefaultSize = DefaultSize::ShortestUpTo(800, 1333);

pub(super) const FAMILIES: [Family; 40] = {
    use DefaultSize::{Longest, Shortest, Square};
    use Filter::{Bicubic, Bilinear, Nearest};
    [
        Family::new("ViT", Square(224), Bilinear, HALF),
        Family::new("ViTHybrid", Shortest(224), Bicubic, CLIP).cropping(224),
        Family::new("CLIP", Shortest(224), Bicubic, CLIP).cropping(224),
        Family::new("ChineseCLIP", Shortest(224), Bicubic, CLIP).cropping(224),
        Family::new("Bit", Shortest(224), Bicubic, CLIP).cropping(224),
        Family::new("DeiT", Square(256), Bicubic, HALF).cropping(224),
        Family::new("Beit", Square(256), Bicubic, HALF).cropping(224),
        Family::new("Flava", Square(224), Bicubic, CLIP).cropping(224),
        Family::new("Blip", Square(384), Bicubic, CLIP),
        Family::new("Siglip", Square(224), Bicubic, HALF),
        Family::new("DINOv3ViT", Square(224), Bilinear, IMAGENET),
        Family::new("OwlViT", Square(768), Bicubic, CLIP).crop_on_demand(768),
        Family::new("Pvt", Square(224), Bilinear, IMAGENET),
        Family::new("Segformer", Square(512), Bilinear, IMAGENET),
        Family::new("ConvNext", Shortest(384), Bilinear, HALF)
            .rule(Rule::ConvNext)
            .crop_pct(224.0 / 256.0),
        Family::new("Levit", Shortest(224), Bicubic, IMAGENET)
            .rule(Rule::Levit)
            .cropping(224),
        Family::new("EfficientFormer", Square(224), Bicubic, IMAGENET).cropping(224),
        Family {
            divides_again: true,
            ..Family::new("EfficientNet", Square(346), Nearest, HALF).crop_on_demand(289)
        },
        Family::new("MobileNetV1", Shortest(256), Bilinear, HALF).cropping(224),
        Family::new("MobileNetV2", Shortest(256), Bilinear, HALF).cropping(224),
        Family {
            norm: None,
            flips: true,
            ..Family::new("MobileViT", Shortest(224), Bilinear, HALF)
                .cropping(256)
                .not_normalizing()
        },
        Family::new("PoolFormer", Shortest(224), Bicubic, IMAGENET)
            .rule(Rule::PoolFormer)
            .cropping(224)
            .crop_pct(0.9),
        Family::new("Perceiver", Square(224), Bicubic, IMAGENET)
            .rule(Rule::Perceiver)
            .cropping(256),
        Family::new("DPT", Square(384), Bicubic, HALF).rule(Rule::Dpt),
        Family {
            norm: None,
            ..Family::new("GLPN", DefaultSize::Open, Bilinear, HALF)
                .rule(Rule::Glpn)
                .multiple(32)
                .not_normalizing()
        },
        Family::new("TextNet", Shortest(640), Bilinear, IMAGENET)
            .rule(Rule::UpToMultiple)
            .multiple(32)
            .crop_on_demand(224),
        Family::new("Detr", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::Detr),
        Family::new("Deta", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::Detr),
        Family::new("ConditionalDetr", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::Detr),
        Family::new("DeformableDetr", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::Detr),
        Family::new("GroundingDino", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::Detr),
        Family {
            square: false,
            ..Family::new("RTDetr", Square(640), Bilinear, IMAGENET)
                .rule(Rule::Detr)
                .not_normalizing()
        },
        Family::new("Yolos", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::Yolos),
        Family::new("MaskFormer", DETR_SIZE, Bilinear, IMAGENET)
            .rule(Rule::UpToMultiple)
            .multiple(32),
        Family::new("Mask2Former", DETR_SIZE, Bilinear, IMAGENET)
            .rule(Rule::UpToMultiple)
            .multiple(32),
        Family::new("OneFormer", DETR_SIZE, Bilinear, IMAGENET).rule(Rule::UpToMultiple),
        Family::new("Vilt", Shortest(384), Bicubic, HALF)
            .rule(Rule::Vilt)
            .multiple(32),
        Family {
            // The size of the crop is the shortest edge.
            crops: true,
            ..Family::new("BridgeTower", Shortest(288), Bicubic, CLIP)
                .rule(Rule::Vilt)
                .multiple(32)
        },
        Family {
            pads: Some(1024),
            ..Family::new("Sam", Longest(1024), Bilinear, IMAGENET).rule(Rule::Sam)
        },
        Family::new(TIMM, Square(224), Bicubic, IMAGENET)
            .rule(Rule::Timm)
            .crop_pct(0.875),
    ]
};

/// Processors with an unsupported step that no key of the file reveals.
pub(super) const MISSING: &[(&str, &str)] = &[
    ("Aria", "several images from one"),
    ("Chameleon", "blending of alpha with white"),
    ("Cohere2Vision", "several images from one"),
    ("DeepseekVL", "padding with the mean colour"),
    ("DeepseekVLHybrid", "two images from one"),
    ("DepthPro", "resizing of normalized levels"),
    ("Donut", "thumbnails"),
    ("EfficientLoFTR", "pairs of images"),
    ("Emu3", "patches"),
    ("Eomt", "several images from one"),
    ("Fuyu", "patches"),
    ("Gemma3", "several images from one"),
    ("Glm4v", "patches"),
    ("GotOcr2", "several images from one"),
    ("Idefics", "several images from one"),
    ("Idefics2", "several images from one"),
    ("Idefics3", "several images from one"),
    ("ImageGPT", "colour clusters"),
    ("InstructBlipVideo", "videos"),
    ("Janus", "padding with the mean colour"),
    ("Kosmos2_5", "patches"),
    ("LayoutLMv2", "text recognition"),
    ("LayoutLMv3", "text recognition"),
    ("Lfm2Vl", "patches"),
    ("LightGlue", "pairs of images"),
    ("Llama4", "several images from one"),
    ("LlavaNext", "several images from one"),
    ("LlavaNextVideo", "videos"),
    ("LlavaOnevision", "several images from one"),
    ("Mllama", "several images from one"),
    ("Nougat", "cropping of margins"),
    ("Ovis2", "several images from one"),
    ("Owlv2", "resizing with a Gaussian filter"),
    ("PerceptionLM", "several images from one"),
    ("Phi4Multimodal", "several images from one"),
    ("Pix2Struct", "patches"),
    ("Pixtral", "patches"),
    ("PromptDepthAnything", "depth maps"),
    ("Qwen2VL", "patches"),
    ("Sam2", "resizing of normalized levels"),
    ("SegGpt", "prompt images"),
    ("Siglip2", "patches"),
    ("SmolVLM", "several images from one"),
    ("SuperGlue", "pairs of images"),
    ("SuperPoint", "grey with different weights"),
    ("Swin2SR", "padding with mirrored pixels"),
    ("Tvlt", "videos"),
    ("Tvp", "videos"),
    ("VideoLlava", "videos"),
    ("VideoMAE", "videos"),
    ("VitMatte", "trimaps"),
    ("VitPose", "boxes of persons"),
    ("Vivit", "videos"),
    ("ZoeDepth", "padding with mirrored pixels"),
];

/// The unsupported step of a processor with this name.
pub(super) fn missing_step(name: &str) -> Option<&'static str> {
    let stem = stem(name);
    MISSING.iter().find(|(known, _)| *known == stem).map(|(_, step)| *step)
}

/// Whether the table has a processor with this name.
pub(super) fn is_known(name: &str) -> bool {
    let stem = stem(name);
    FAMILIES.iter().any(|family| family.stem == stem)
}
