"""What operators do with the tensors of a file: which are weights, which are moved or computed."""

_MICROSOFT, _BLOCKED = "com.microsoft", "com.microsoft.nchwc"
_CONV, _PRODUCT = (1, 2), (0, 1)
# Layers, by domain and operator: which inputs are weights where the file fixes them.
LAYERS: dict[tuple[str, str], tuple[int, ...]] = {
    **dict.fromkeys((("", "Conv"), ("", "ConvTranspose"), (_BLOCKED, "Conv")), _CONV),
    (_MICROSOFT, "FusedConv"): _CONV,
    ("", "CausalConvWithState"): _CONV,
    ("", "DeformConv"): (1, 3),
    ("", "MatMul"): _PRODUCT,
    **dict.fromkeys(((_MICROSOFT, "FusedMatMul"), (_MICROSOFT, "TransposeMatMul")), _PRODUCT),
    **dict.fromkeys((("", "Gemm"), (_MICROSOFT, "FusedGemm")), (0, 1, 2)),
    ("", "Einsum"): tuple(range(8)),
    ("", "BatchNormalization"): (1, 2),
    ("", "InstanceNormalization"): (1, 2),
    ("", "GroupNormalization"): (1, 2),
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,),
    (_MICROSOFT, "SkipLayerNormalization"): (1, 2, 3, 4),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): (1, 2, 3),
    (_MICROSOFT, "EmbedLayerNormalization"): (2, 3, 4, 5, 6),
    ("", "PRelu"): (1,),
    (_MICROSOFT, "BiasGelu"): (1,),
    (_MICROSOFT, "FastGelu"): (1,),
    **dict.fromkeys((("", "RNN"), ("", "GRU"), ("", "LSTM")), (1, 2, 3, 5, 6, 7)),
    ("", "Attention"): (0, 1, 2, 3),
    ("", "LinearAttention"): (0, 1, 2),
    (_MICROSOFT, "Attention"): (1, 2, 5),
    (_MICROSOFT, "MultiHeadAttention"): (0, 1, 2, 3, 5),
    # Quantised: known, so that they can be refused.
    **dict.fromkeys((("", "ConvInteger"), (_MICROSOFT, "DynamicQuantizeMatMul")), (1,)),
    **dict.fromkeys((("", "MatMulInteger"), (_MICROSOFT, "MatMulIntegerToFloat")), _PRODUCT),
    (_MICROSOFT, "MatMulNBits"): (1,),
    **dict.fromkeys((("", "QLinearConv"), (_MICROSOFT, "QGemm")), (3,)),
    ("", "QLinearMatMul"): (0, 3),
}
# They take elements of the first input to another place or type; the others say where.
MOVING = {
    *("Cast", "CastLike", "Compress", "DepthToSpace", "DequantizeLinear", "Dropout", "Expand"),
    *("Flatten", "Identity", "Pad", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape"),
    *("Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu"),
    *("Unsqueeze", "Upsample"),
}
# They read of a value what no training changes: its shape and type.
DESCRIBING = {"EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size"}
LOOKING_UP = {"Gather", "GatherElements", "GatherND"}
# They put what the file fixes beside what is computed, as biases and scales, or subtract from it.
JOINING = {"Add", "Concat", "Mul", "Sub", "Sum"}
# Of values that the file fixes they make one of all, in which each has elements of its own, or
# which is computed element by element; of some operators only these inputs are in it.
PLACING = {"Concat", "ScatterElements", "ScatterND", "SequenceConstruct"}
COMBINING = {*PLACING, *JOINING, "Div", "Max", "Mean", "Min", "Where"}
CARRIED = {"ScatterElements": (0, 2), "ScatterND": (0, 2), "Where": (1, 2)}
# What goes through these is no longer a summand or factor, only what these are computed of.
BENDING = {"Exp", "Log", "Neg", "Pow", "Reciprocal", "Sqrt"}
TAKING_AWAY = {"Div", "Sub"}
# What they make of values that the file fixes has no part of them.
COMPARING = {
    *("And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
    *("LessOrEqual", "NonZero", "Not", "Or", "Xor"),
}
