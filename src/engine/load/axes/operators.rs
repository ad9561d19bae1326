//! The known operators and their rules. Any other operator mixes the records of a batch.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::call::Rule;
use super::rules::{elementwise, image, indexing, layout, matrix, ml, reduce, roles};

/// Operators of a domain that share a rule.
pub struct Group {
    pub domain: &'static str,
    pub names: &'static [&'static str],
    pub rule: Rule,
}

const ONNX: &str = "";
const ML: &str = "ai.onnx.ml";
const MICROSOFT: &str = "com.microsoft";
/// Kernels for blocks of channels, which ONNX Runtime inserts when it optimises a graph.
const BLOCKED: &str = "com.microsoft.nchwc";

const fn group(domain: &'static str, names: &'static [&'static str], rule: Rule) -> Group {
    Group { domain, names, rule }
}

/// Operators with bodies. They have no rule: the walk through the graph handles them.
pub const CONTROL_FLOW: [&str; 3] = ["If", "Loop", "Scan"];

/// The operator for constants. It has no rule: the walk through the graph handles it.
pub const CONSTANT: &str = "Constant";

#[rustfmt::skip]
pub static GROUPS: &[Group] = &[
    group(ONNX, &[
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Clip", "Cos", "Cosh",
        "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish",
        "Neg", "Not", "Reciprocal", "RegexFullMatch", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin",
        "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    ], elementwise::unary),
    group(ONNX, &["Identity"], elementwise::identity),
    group(ONNX, &["Cast"], elementwise::cast),
    group(ONNX, &["CastLike"], elementwise::cast_like),
    group(ONNX, &["Add", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Sub"], elementwise::arithmetic),
    group(ONNX, &[
        "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "GreaterOrEqual", "LessOrEqual", "Mean", "Mod",
        "Or", "PRelu", "Pow", "StringConcat", "Sum", "Xor",
    ], elementwise::broadcast_all),
    group(ONNX, &["Where"], elementwise::choose),
    group(ONNX, &["Dropout"], elementwise::dropout),
    group(ONNX, &["OneHot"], elementwise::one_hot),
    group(ONNX, &["MatMul"], matrix::matmul),
    group(ONNX, &["Gemm"], matrix::gemm),
    group(ONNX, &["MatMulInteger"], matrix::matmul_integer),
    group(ONNX, &["QLinearMatMul"], matrix::qlinear_matmul),
    group(ONNX, &["Einsum"], matrix::einsum),
    group(ONNX, &["Reshape"], layout::reshape),
    group(ONNX, &["Flatten"], layout::flatten),
    group(ONNX, &["Transpose"], layout::transpose),
    group(ONNX, &["Squeeze"], layout::squeeze),
    group(ONNX, &["Unsqueeze"], layout::unsqueeze),
    group(ONNX, &["Concat"], layout::concat),
    group(ONNX, &["Split"], layout::split),
    group(ONNX, &["Shape"], layout::shape),
    group(ONNX, &["Size"], layout::size),
    group(ONNX, &["DepthToSpace", "SpaceToDepth"], layout::depth_and_space),
    group(ONNX, &["Slice"], indexing::slice),
    group(ONNX, &["Gather"], indexing::gather),
    group(ONNX, &["GatherElements"], indexing::gather_elements),
    group(ONNX, &["GatherND"], indexing::gather_nd),
    group(ONNX, &["ScatterElements"], indexing::scatter_elements),
    group(ONNX, &["Expand"], indexing::expand),
    group(ONNX, &["Tile"], indexing::tile),
    group(ONNX, &["Pad"], indexing::pad),
    group(ONNX, &["ConstantOfShape"], indexing::constant_of_shape),
    group(ONNX, &["Range"], indexing::range),
    group(ONNX, &["Compress"], indexing::compress),
    group(ONNX, &["Trilu"], indexing::triangle),
    group(ONNX, &["ReverseSequence"], indexing::reverse_sequence),
    group(ONNX, &["SequenceConstruct"], indexing::sequence_of),
    group(ONNX, &["SequenceAt"], indexing::sequence_at),
    group(ONNX, &["SequenceInsert"], indexing::sequence_insert),
    group(ONNX, &["SequenceLength"], indexing::sequence_length),
    group(ONNX, &["SplitToSequence"], indexing::split_to_sequence),
    group(ONNX, &["ConcatFromSequence"], indexing::concat_from_sequence),
    group(ONNX, &[
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare",
    ], reduce::reduce),
    group(ONNX, &["ArgMax", "ArgMin"], reduce::arg),
    group(ONNX, &["Hardmax", "LogSoftmax", "Softmax"], reduce::softmax),
    group(ONNX, &["LpNormalization"], reduce::along_axis),
    group(ONNX, &["CumSum"], reduce::cumulative),
    group(ONNX, &["TopK"], reduce::top_k),
    group(ONNX, &["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"], reduce::layer_norm),
    group(ONNX, &["MeanVarianceNormalization"], reduce::mean_variance),
    group(ONNX, &["BatchNormalization"], reduce::batch_norm),
    group(ONNX, &["GroupNormalization", "InstanceNormalization", "LRN"], reduce::first_axis),
    group(ONNX, &["DequantizeLinear", "QuantizeLinear"], reduce::quantise),
    group(ONNX, &["Conv"], image::conv),
    group(ONNX, &["ConvInteger"], image::conv_integer),
    group(ONNX, &["QLinearConv"], image::qlinear_conv),
    group(ONNX, &["ConvTranspose"], image::conv_transpose),
    group(ONNX, &["AveragePool", "LpPool", "MaxPool"], image::pool),
    group(ONNX, &["GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"], image::global_pool),
    group(ONNX, &["Resize", "Upsample"], image::resize),
    group(ONNX, &["GridSample"], roles::grid_sample),
    group(ONNX, &["GRU", "LSTM", "RNN"], roles::recurrent),
    group(ONNX, &["STFT"], roles::stft),
    group(ONNX, &["Attention"], roles::attention),
    group(ONNX, &["RotaryEmbedding"], roles::standard_rotary_embedding),
    group(ONNX, &["StringNormalizer"], ml::normalised_texts),
    group(ONNX, &["TfIdfVectorizer"], ml::n_grams),
    group(ONNX, &["BlackmanWindow", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix"], reduce::from_same),
    group(ONNX, &["NonZero"], indexing::non_zero),
    group(ONNX, &["DynamicQuantizeLinear", "NonMaxSuppression", "ScatterND", "Unique"], reduce::mixes),
    group(ONNX, &[
        "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    ], reduce::draws),

    group(ML, &[
        "LinearRegressor", "SVMRegressor", "TreeEnsemble", "TreeEnsembleRegressor",
    ], ml::regressor),
    group(ML, &["LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"], ml::classifier),
    group(ML, &["Imputer", "Normalizer", "Scaler"], ml::features),
    group(ML, &["Binarizer", "CategoryMapper", "LabelEncoder"], ml::elements),
    group(ML, &["ArrayFeatureExtractor"], ml::extract),
    group(ML, &["FeatureVectorizer"], ml::concatenated),
    group(ML, &["OneHotEncoder"], ml::one_hot),
    group(ML, &["ZipMap"], ml::zip_map),

    group(MICROSOFT, &["Gelu", "QuickGelu"], elementwise::unary),
    group(MICROSOFT, &["BiasAdd", "BiasGelu", "FastGelu"], elementwise::broadcast_all),
    group(MICROSOFT, &["FusedMatMul", "TransposeMatMul"], matrix::fused_matmul),
    group(MICROSOFT, &["FusedGemm"], matrix::gemm),
    group(MICROSOFT, &["FusedConv"], image::conv),
    group(MICROSOFT, &["MatMulBnb4", "MatMulFpQ4", "MatMulNBits"], matrix::packed_weights),
    group(MICROSOFT, &["MatMulIntegerToFloat"], matrix::matmul_integer_to_float),
    group(MICROSOFT, &["QGemm"], matrix::qgemm),
    group(MICROSOFT, &["QLinearConv"], image::qlinear_conv),
    group(MICROSOFT, &["QLinearLeakyRelu", "QLinearSigmoid"], elementwise::unary),
    group(MICROSOFT, &["QLinearAdd", "QLinearMul"], elementwise::qlinear_binary),
    group(MICROSOFT, &["QLinearConcat"], layout::qlinear_concat),
    group(MICROSOFT, &["QLinearAveragePool"], image::pool),
    group(MICROSOFT, &["QLinearGlobalAveragePool"], image::global_pool),
    group(MICROSOFT, &["QLinearSoftmax"], reduce::qlinear_softmax),
    group(MICROSOFT, &["DequantizeLinear", "QuantizeLinear"], reduce::quantise),
    group(MICROSOFT, &["LayerNormalization", "SimplifiedLayerNormalization"], reduce::layer_norm),
    group(MICROSOFT, &["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"], reduce::skip_layer_norm),
    group(MICROSOFT, &["Attention"], roles::ms_attention),
    group(MICROSOFT, &["MultiHeadAttention"], roles::multi_head_attention),
    group(MICROSOFT, &["GroupQueryAttention"], roles::group_query_attention),
    group(MICROSOFT, &["QAttention"], roles::qattention),
    group(MICROSOFT, &["EmbedLayerNormalization"], roles::embed_layer_norm),
    group(MICROSOFT, &["RotaryEmbedding"], roles::rotary_embedding),
    group(MICROSOFT, &["GridSample"], roles::grid_sample),
    group(BLOCKED, &["ReorderInput", "ReorderOutput"], image::reordered),
    group(BLOCKED, &["Conv"], image::blocked_conv),
    group(BLOCKED, &["AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Upsample"], image::reordered),
    group(MICROSOFT, &["Trilu"], indexing::triangle),
    group(MICROSOFT, &[
        "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "Tokenizer", "Unique",
    ], reduce::mixes),
];

type Rules = HashMap<(&'static str, &'static str), Rule>;

/// Returns the rule of an operator; `None` for an unknown operator.
pub fn rule(domain: &str, name: &str) -> Option<Rule> {
    static RULES: LazyLock<Rules> = LazyLock::new(|| {
        let groups = GROUPS.iter();
        groups
            .flat_map(|group| group.names.iter().map(|name| ((group.domain, *name), group.rule)))
            .collect()
    });
    RULES.get(&(domain, name)).copied()
}
