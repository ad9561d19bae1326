//! The rules, operator by operator.

use super::*;

#[test]
fn elementwise_operators_keep_records_and_broadcast_from_the_last_axis() {
    check(
        17,
        &[
            ("x:n,3", "Relu x -> y", "records"),
            ("x:n,3", "c:; Clip x c c -> y", "records"),
            ("x:n,3", "c:3; Clip x c c -> y", "Clip"),
            ("x:n,3", "c:3; Add x c -> y", "records"),
            ("x:n,3", "c:1,3; Add x c -> y", "records"),
            ("x:n,3", "c:5,1,3; Add x c -> y", "elsewhere"),
            // The constant could have one row for each record, and batches would shift the rows.
            ("x:n,3", "c:4,3; Add x c -> y", "Add"),
            ("x:n,3 z:n,3", "Mul x z -> y", "records"),
            ("x:n,3 z:n,1", "Mul x z -> y", "records"),
            ("x:n,3 z:n", "Mul x z -> y", "Mul"),
            ("x:n,3 z:n,2,3", "Mul x z -> y", "Mul"),
            ("x:n,3", "c:; Where x c x -> y", "records"),
            ("x:n,3", "Cast[to=7] x -> y", "records"),
            ("x:n,3", "Dropout x -> y _", "records"),
            ("x:n,3", "r:; t=1; Dropout x r t -> y", "Dropout"),
            ("x:n,3", "r:; t=0; Dropout x r t -> y", "records"),
            ("x:n,3", "d=4; v:2; OneHot x d v -> y", "records"),
            ("x:n,3", "d=4; v:2; OneHot[axis=0] x d v -> y", "elsewhere"),
            ("x:n,3", "RandomNormalLike x -> y", "RandomNormalLike"),
            ("x:n,3", "Frobnicate x -> y", "Frobnicate"),
            ("x:n,3", "other.Relu x -> y", "Relu"),
            ("x:n,3", "c:3; Relu c -> y", "whole"),
        ],
    );
}

#[test]
fn matrix_products_keep_records_in_rows_and_mix_them_in_columns() {
    check(
        17,
        &[
            ("x:n,3", "w:3,4; MatMul x w -> y", "records"),
            ("x:n,3", "w:4,3; Transpose x -> t; MatMul w t -> y", "elsewhere"),
            ("x:n,3", "Transpose x -> t; MatMul t x -> y", "MatMul"),
            ("x:n,3", "Transpose x -> t; MatMul x t -> y", "MatMul"),
            ("x:n,3,4 z:n,4,5", "MatMul x z -> y", "records"),
            ("x:n,3,4", "w:7,4,5; MatMul x w -> y", "MatMul"),
            ("x:n,4", "w:7,4,5; MatMul x w -> y", "elsewhere"),
            ("x:n,3,4", "w:4; MatMul x w -> y", "records"),
            ("x:n,3,4", "w:3; MatMul w x -> y", "records"),
            ("x:n", "w:3; MatMul w x -> y", "MatMul"),
            ("x:n,3", "w:4,3; b:4; Gemm[transB=1] x w b -> y", "records"),
            ("x:n,3", "w:4,3; b:2,4; Gemm[transB=1] x w b -> y", "Gemm"),
            ("x:n,3", "w:4,3; Gemm[transA=1] x w -> y", "Gemm"),
            ("x:n,3 z:n,4", "Gemm[transA=1] x z -> y", "Gemm"),
            ("x:n,3", "w:3,4; a:; MatMulInteger x w a -> y", "records"),
            ("x:n,3", "w:3,4; a:5; MatMulInteger x w a -> y", "MatMulInteger"),
            ("x:n,3", "w:8,3,4; ms.MatMulNBits[N=8] x w -> y", "records"),
            ("x:n,3,4 z:n,5,4", "ms.FusedMatMul[transB=1] x z -> y", "records"),
            (
                "x:n,3",
                "w:3,4; ms.DynamicQuantizeMatMul x w -> y",
                "DynamicQuantizeMatMul",
            ),
        ],
    );
}

#[test]
fn einsum_keeps_the_records_unless_it_sums_over_them() {
    let cases = [
        ("x:n,3 z:n,4", "na,nb->nab", "x z", "records"),
        ("x:n,3 z:n,4", "na,nb->ab", "x z", "Einsum"),
        ("x:n,3 z:n,4", "na,mb->nm", "x z", "Einsum"),
        ("x:n,3", "na,ab->nb", "x w", "records"),
        ("x:n,3", "na,ab->bn", "x w", "elsewhere"),
        ("x:n,3", "na,na->na", "x c", "Einsum"),
    ];
    for (inputs, equation, operands, expected) in cases {
        let mut model = model(17, inputs, &format!("w:3,4; c:5,3; Einsum {operands} -> y"));
        let equation = Attribute::Text(Some(equation.to_owned()));
        model.graph.nodes[0].attributes.insert("equation".to_owned(), equation);
        let found = found(&model);
        assert!(found.starts_with(expected), "{operands}: {found}");
    }
}

#[test]
fn reshapes_keep_the_records_if_each_stays_in_one_piece() {
    check(
        17,
        &[
            ("x:n,3,4", "s=-1,12; Reshape x s -> y", "records"),
            ("x:n,3,4", "s=0,-1; Reshape x s -> y", "records"),
            ("x:n,3,4", "s=0,4,3; Reshape x s -> y", "records"),
            ("x:n,3,4", "s=-1,4; Reshape x s -> y", "elsewhere"),
            // Twelve is not divisible by five: a row may contain parts of two records.
            ("x:n,3,4", "s=-1,5; Reshape x s -> y", "Reshape"),
            ("x:n,4", "s=4,-1; Reshape x s -> y", "Reshape"),
            ("x:n,4", "s=1,-1; Reshape x s -> y", "elsewhere"),
            ("x:n,4", "s=-1,; Reshape x s -> y", "elsewhere"),
            ("x:n,4", "s=2,2; Reshape x s -> y", "Reshape"),
            (
                "x:n,s,4",
                "s=-1,4; Reshape x s -> a; t=-1,8; Reshape a t -> y",
                "Reshape",
            ),
            (
                "x:n,s,4",
                "s=-1,4; Reshape x s -> a; Shape x -> t; Reshape a t -> y",
                "records",
            ),
            (
                "x:n,s,8",
                "i=0; Shape x -> t; Gather t i -> d; z=0,; Unsqueeze d z -> u; r=-1,2,4; Concat u r -> c; Reshape x c -> y",
                "records",
            ),
            (
                "x:n,s,8",
                "i=1; Shape x -> t; Gather t i -> d; z=0,; Unsqueeze d z -> u; r=-1,8; Concat u r -> c; Reshape x c -> y",
                "Reshape",
            ),
            ("x:n,3,4", "Flatten x -> y", "records"),
            ("x:n,3,4", "Flatten[axis=0] x -> y", "elsewhere"),
            ("x:n,3,4", "Flatten[axis=2] x -> y", "elsewhere"),
            // Steps first and heads merged with the records, as in nn.MultiheadAttention.
            (
                "x:n,s,8",
                "Transpose[perm=1:0:2] x -> a; Shape a -> t; i=0; j=1; Gather t i -> d; Gather t j -> e; h=2; Mul e h -> f; z=0,; \
                 Unsqueeze d z -> u; Unsqueeze f z -> v; w=4,; Concat u v w -> c; Reshape a c -> b; Transpose[perm=1:0:2] b -> g; \
                 Transpose[perm=1:0:2] g -> k; Reshape k t -> l; Transpose[perm=1:0:2] l -> y",
                "records",
            ),
            ("x:n,3,4", "Transpose[perm=0:2:1] x -> y", "records"),
            ("x:n,3,4", "Transpose x -> y", "elsewhere"),
            ("x:n,1,4", "a=1,; Squeeze x a -> y", "records"),
            ("x:n,1,4", "Squeeze x -> y", "Squeeze"),
            ("x:n,4", "a=0,; Unsqueeze x a -> y", "elsewhere"),
            ("x:n,4", "a=-1,; Unsqueeze x a -> y", "records"),
            ("x:n,4", "a=0,; Squeeze x a -> y", "Squeeze"),
        ],
    );
}

#[test]
fn indexing_operators_keep_the_records_only_along_other_axes() {
    check(
        17,
        &[
            ("x:n,3 z:n,4", "Concat[axis=1] x z -> y", "records"),
            ("x:n,3 z:n,3", "Concat[axis=0] x z -> y", "Concat"),
            ("x:n,3", "c:1,3; Concat[axis=1] x c -> y", "Concat"),
            ("x:n,6", "Split[axis=1] x -> y z", "records"),
            ("x:n,6", "Split[axis=0] x -> y z", "Split"),
            ("x:n,6", "a=0,; b=3,; c=1,; Slice x a b c -> y", "records"),
            ("x:n,6", "a=0,; b=3,; c=0,; Slice x a b c -> y", "Slice"),
            (
                "x:n,6",
                "a=0,; b=9223372036854775807,; c=0,; Slice x a b c -> y",
                "records",
            ),
            (
                "x:n,6",
                "a=-1,; b=-9223372036854775807,; c=0,; d=-1,; Slice x a b c d -> y",
                "Slice",
            ),
            ("x:n,6", "i=0; Gather[axis=1] x i -> y", "records"),
            ("x:n,6", "i=0; Gather[axis=0] x i -> y", "Gather"),
            ("x:n,6", "t:100,8; Gather t x -> y", "records"),
            ("x:n,6", "t:100,8; Gather[axis=1] t x -> y", "elsewhere"),
            ("x:n,6 i:n,2", "GatherElements[axis=1] x i -> y", "records"),
            ("x:n,6 i:n,2", "GatherElements[axis=0] x i -> y", "GatherElements"),
            ("x:n,6", "i:3,2; GatherElements[axis=1] x i -> y", "GatherElements"),
            ("x:n,6 i:n,2,1", "GatherND[batch_dims=1] x i -> y", "records"),
            ("x:n,6 i:n,2,2", "GatherND x i -> y", "GatherND"),
            ("i:n,2,2", "t:5,6; GatherND t i -> y", "records"),
            ("x:n,6 i:n,2 u:n,2", "ScatterElements[axis=1] x i u -> y", "records"),
            (
                "x:n,6 i:n,2 u:n,2",
                "ScatterElements[axis=0] x i u -> y",
                "ScatterElements",
            ),
            ("x:n,6 i:n,2 u:n,2", "ScatterND x i u -> y", "ScatterND"),
            ("x:n,6", "r=1,2; Tile x r -> y", "records"),
            ("x:n,6", "r=2,1; Tile x r -> y", "elsewhere"),
            ("x:n,6", "p=0,1,0,1; Pad x p -> y", "records"),
            ("x:n,6", "p=1,0,0,0; Pad x p -> y", "Pad"),
            ("x:n,1,6", "s=1,4,1; Expand x s -> y", "records"),
            ("x:n,6", "s=7,6; Expand x s -> y", "Expand"),
            ("x:n,6", "Shape x -> s; c:1,6; Expand c s -> y", "records"),
            ("x:n,6", "Shape x -> s; ConstantOfShape s -> y", "records"),
            (
                "x:n,6",
                "Shape x -> s; i=0; Gather s i -> n; a=0; d=1; Range a n d -> y",
                "Range",
            ),
            ("x:n,6", "Shape x -> s; Cast[to=1] s -> f; Mul x f -> y", "Mul"),
            (
                "x:n,6",
                "Size x -> s; Cast[to=1] s -> f; ReduceSum x f -> y",
                "ReduceSum",
            ),
            ("x:n,6,6", "Trilu x -> y", "records"),
            ("x:n,6", "Trilu x -> y", "Trilu"),
            ("x:n,6", "NonZero x -> y", "NonZero"),
            ("x:n,6", "Unique x -> y", "Unique"),
            ("x:n,6", "c:6; Compress[axis=1] x c -> y", "records"),
            ("x:n,6", "c:6; Compress[axis=0] x c -> y", "Compress"),
            ("x:n,6", "c:6; Compress x c -> y", "Compress"),
            (
                "x:n,6 l:n",
                "ReverseSequence[batch_axis=0,time_axis=1] x l -> y",
                "records",
            ),
            (
                "x:n,6 l:n",
                "ReverseSequence[batch_axis=1,time_axis=0] x l -> y",
                "ReverseSequence",
            ),
            (
                "x:n,6",
                "SplitToSequence[axis=1] x -> s; i=0; SequenceAt s i -> y",
                "records",
            ),
            (
                "x:n,6",
                "SplitToSequence x -> s; i=0; SequenceAt s i -> y",
                "SplitToSequence",
            ),
            (
                "x:n,6",
                "SequenceConstruct x x -> s; ConcatFromSequence[axis=1] s -> y",
                "records",
            ),
            (
                "x:n,6",
                "SequenceConstruct x x -> s; ConcatFromSequence[axis=0] s -> y",
                "ConcatFromSequence",
            ),
            (
                "x:n,6",
                "SequenceConstruct x x -> s; ConcatFromSequence[axis=1,new_axis=1] s -> y",
                "records",
            ),
        ],
    );
}

#[test]
fn sums_and_normalisations_keep_the_records_only_along_other_axes() {
    check(
        17,
        &[
            ("x:n,3,4", "ReduceMean[axes=1:2] x -> y", "records"),
            ("x:n,3,4", "ReduceMean[axes=0:] x -> y", "ReduceMean"),
            ("x:n,3,4", "ReduceMean x -> y", "ReduceMean"),
            ("x:n,3,4", "a=1,; ReduceSum[keepdims=0] x a -> y", "records"),
            ("x:n,3,4", "a=-3,; ReduceSum[keepdims=0] x a -> y", "ReduceSum"),
            ("x:n,3,4", "ReduceSum[noop_with_empty_axes=1] x -> y", "records"),
            ("x:n,3", "ArgMax[axis=1] x -> y", "records"),
            ("x:n,3", "ArgMax x -> y", "ArgMax"),
            ("x:n,3", "Softmax x -> y", "records"),
            ("x:n,3", "Softmax[axis=0] x -> y", "Softmax"),
            ("x:n,3", "k=2,; TopK x k -> y _", "records"),
            ("x:n,3", "k=2,; TopK[axis=0] x k -> y _", "TopK"),
            ("x:n,3", "k=2,; TopK[axis=0] x k -> _ y", "TopK"),
            ("x:n,3", "a=1; CumSum x a -> y", "records"),
            ("x:n,3", "a=0; CumSum x a -> y", "CumSum"),
            ("x:n,3,4", "s:4; LayerNormalization x s s -> y", "records"),
            ("x:n,3,4", "s:3,4; LayerNormalization x s s -> y", "LayerNormalization"),
            (
                "x:n,3,4",
                "s:4; LayerNormalization[axis=0] x s s -> y",
                "LayerNormalization",
            ),
            (
                "x:n,3,4 z:n,3,4",
                "s:4; ms.SkipLayerNormalization x z s s -> y",
                "records",
            ),
            (
                "x:n,3,4",
                "z:5,3,4; s:4; ms.SkipLayerNormalization x z s s -> y",
                "SkipLayerNormalization",
            ),
            ("x:n,3,4", "LpNormalization[axis=1] x -> y", "records"),
            ("x:n,3,4", "LpNormalization[axis=0] x -> y", "LpNormalization"),
            (
                "x:n,3,4,4",
                "MeanVarianceNormalization x -> y",
                "MeanVarianceNormalization",
            ),
            ("x:n,3,4,4", "MeanVarianceNormalization[axes=2:3] x -> y", "records"),
            ("x:n,3,4,4", "s:3; BatchNormalization x s s s s -> y", "records"),
            (
                "x:n,3,4,4",
                "s:3; BatchNormalization[training_mode=1] x s s s s -> y m v",
                "BatchNormalization",
            ),
            ("x:n,3,4,4", "s:3; InstanceNormalization x s s -> y", "records"),
            ("x:n,3", "DynamicQuantizeLinear x -> y s z", "DynamicQuantizeLinear"),
            ("x:n,3", "s:; QuantizeLinear x s -> y", "records"),
            ("x:n,3", "s:3; QuantizeLinear x s -> y", "records"),
            ("x:n,3", "s:5; QuantizeLinear[axis=0] x s -> y", "QuantizeLinear"),
            (
                "x:n,3",
                "s:5,3; QuantizeLinear[block_size=1] x s -> y",
                "QuantizeLinear",
            ),
        ],
    );
}

#[test]
fn older_versions_of_operators_have_their_own_rules() {
    // The axis and all later ones are normalised together.
    check(11, &[("x:n,3,4", "Softmax[axis=1] x -> y", "records")]);
    check(
        11,
        &[(
            "x:n,3,4",
            "Transpose[perm=1:0:2] x -> t; Softmax[axis=0] t -> y",
            "Softmax",
        )],
    );
    check(
        13,
        &[(
            "x:n,3,4",
            "Transpose[perm=1:0:2] x -> t; Softmax[axis=0] t -> y",
            "elsewhere",
        )],
    );
    check(9, &[("x:n,3", "Slice[starts=0:,ends=2:,axes=1:] x -> y", "records")]);
    check(9, &[("x:n,3", "Slice[starts=0:,ends=2:] x -> y", "Slice")]);
    check(
        9,
        &[(
            "x:n,3",
            "s:3; BatchNormalization x s s s s -> y m v a b",
            "BatchNormalization",
        )],
    );
    check(11, &[("x:n,3,4", "ReduceSum[axes=1:] x -> y", "records")]);
    check(6, &[("x:n,3", "Relu x -> y", "Relu")]);
    check(1000, &[("x:n,3", "Relu x -> y", "Relu")]);
}

#[test]
fn image_operators_keep_records_on_the_first_axis() {
    check(
        17,
        &[
            ("x:n,3,8,8", "w:4,3,3,3; Conv x w -> y", "records"),
            ("x:n,3,8,8 w:n,3,3,3", "Conv x w -> y", "Conv"),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Transpose[perm=1:0:2:3] x -> t; Conv t w -> y",
                "Conv",
            ),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Conv x w -> a; s=-1,144; Reshape a s -> y",
                "records",
            ),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Conv[auto_pad=SAME_UPPER] x w -> a; s=-1,256; Reshape a s -> y",
                "records",
            ),
            (
                "x:n,3,8,8",
                "w:4,3,3,3; Conv x w -> a; s=-1,143; Reshape a s -> y",
                "Reshape",
            ),
            (
                "x:n,3,h,w",
                "w:4,3,3,3; Conv x w -> a; s=-1,144; Reshape a s -> y",
                "Reshape",
            ),
            ("x:n,3,8,8", "w:3,4,2,2; ConvTranspose x w -> y", "records"),
            (
                "x:n,3,8,8",
                "MaxPool[kernel_shape=2:2,strides=2:2] x -> a; s=-1,48; Reshape a s -> y",
                "records",
            ),
            (
                "x:n,3,8,8",
                "MaxPool[kernel_shape=2:2] x -> _ y",
                "the indices of MaxPool count across the records of a batch",
            ),
            (
                "x:n,3,8,8",
                "GlobalAveragePool x -> a; s=-1,3; Reshape a s -> y",
                "records",
            ),
            ("x:n,3,8,8", "s=1,1,2,2; Resize x _ s -> y", "records"),
            ("x:n,3,8,8", "s=2,1,2,2; Resize x _ s -> y", "Resize"),
            (
                "x:n,3,8,8",
                "s=1,1,2,2; Resize[coordinate_transformation_mode=tf_crop_and_resize] x _ s -> y",
                "Resize",
            ),
            ("x:n,3,8,8", "s=4,3,2,2; Resize x _ _ s -> y", "Resize"),
            ("x:n,3,8,8 g:n,4,4,2", "GridSample x g -> y", "records"),
            ("x:n,3,8,8", "g:5,4,4,2; GridSample x g -> y", "GridSample"),
            ("b:n,9,4 s:n,2,9", "NonMaxSuppression b s -> y", "NonMaxSuppression"),
            ("x:n,4,8,8", "DepthToSpace[blocksize=2] x -> y", "records"),
        ],
    );
}

#[test]
fn recurrent_and_attention_operators_expect_the_records_on_fixed_axes() {
    check(
        17,
        &[
            (
                "x:n,5,8",
                "w:1,64,8; r:1,64,16; LSTM[hidden_size=16] x w r -> y",
                "LSTM",
            ),
            (
                "x:n,5,8",
                "w:1,64,8; r:1,64,16; Transpose[perm=1:0:2] x -> t; LSTM t w r -> _ h; a=0,; Squeeze h a -> y",
                "records",
            ),
            ("x:n,5,8", "w:1,64,8; r:1,64,16; LSTM[layout=1] x w r -> y", "records"),
            (
                "x:n,5,8",
                "w:1,64,8; r:1,64,16; h:1,5,16; Transpose[perm=1:0:2] x -> t; LSTM t w r _ _ h -> y",
                "LSTM",
            ),
            ("x:n,5,8 m:n,5", "w:8,24; b:24; ms.Attention x w b m -> y", "records"),
            ("x:n,5,8", "w:8,24; b:24; m:3,5; ms.Attention x w b m -> y", "Attention"),
            ("q:n,5,8 k:n,5,8 v:n,5,8", "ms.MultiHeadAttention q k v -> y", "records"),
            (
                "q:n,5,8 k:n,5,8 v:n,5,8",
                "b:1,1,5,5; ms.MultiHeadAttention q k v _ _ b -> y",
                "records",
            ),
            (
                "q:n,5,8 k:n,5,8 v:n,5,8",
                "b:4,1,5,5; ms.MultiHeadAttention q k v _ _ b -> y",
                "MultiHeadAttention",
            ),
            (
                "i:n,5",
                "t:9,8; s:8; ms.EmbedLayerNormalization i _ t t _ s s -> y",
                "records",
            ),
            ("x:n,5,8", "s:1,5; c:9,4; ms.RotaryEmbedding x s c c -> y", "records"),
            (
                "x:n,5,8",
                "s:3,5; c:9,4; ms.RotaryEmbedding x s c c -> y",
                "RotaryEmbedding",
            ),
        ],
    );
    check(
        23,
        &[
            (
                "q:n,2,5,8 k:n,2,5,8 v:n,2,5,8",
                "m:5,5; Attention q k v m -> y",
                "records",
            ),
            (
                "q:n,2,5,8 k:n,2,5,8 v:n,2,5,8",
                "m:3,1,5,5; Attention q k v m -> y",
                "Attention",
            ),
            // Three dimensions are broadcast as heads.
            (
                "q:n,2,5,8 k:n,2,5,8 v:n,2,5,8 m:n,5,5",
                "Attention q k v m -> y",
                "Attention",
            ),
        ],
    );
}

#[test]
fn classical_models_expect_one_row_for_each_record() {
    check(
        17,
        &[
            ("x:n,4", "ml.TreeEnsembleRegressor x -> y", "records"),
            ("x:n,4", "ml.TreeEnsembleClassifier x -> y _", "records"),
            ("x:n,4", "ml.LinearClassifier x -> _ y", "records"),
            // A list is a single record.
            ("x:n", "ml.TreeEnsembleRegressor x -> y", "TreeEnsembleRegressor"),
            ("x:n", "ml.Normalizer x -> y", "Normalizer"),
            ("x:n,4", "ml.SVMClassifier x -> _ p; ml.ZipMap p -> y", "records"),
            ("x:n,4", "ml.LabelEncoder x -> y", "records"),
            ("x:n,4", "i=1,2; ml.ArrayFeatureExtractor x i -> y", "records"),
            (
                "x:n",
                "i=1,2; ml.ArrayFeatureExtractor x i -> y",
                "ArrayFeatureExtractor",
            ),
            (
                "x:n,4",
                "c=7,8,9; ArgMax[axis=1] x -> i; ml.ArrayFeatureExtractor c i -> a; s=-1,; Reshape a s -> y",
                "records",
            ),
            ("x:n,4 z:n,2", "ml.FeatureVectorizer x z -> y", "records"),
            ("x:n,1", "ml.OneHotEncoder[cats_int64s=1:2:3] x -> y", "records"),
            ("x:n", "StringNormalizer x -> y", "records"),
            ("x:n,4", "TfIdfVectorizer x -> y", "records"),
            ("x:n", "TfIdfVectorizer x -> y", "TfIdfVectorizer"),
            ("x:n", "ms.Tokenizer x -> y", "Tokenizer"),
        ],
    );
}
