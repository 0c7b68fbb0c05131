"""What the XSP paper prints for MLPerf_ResNet50_v1.5 on a Tesla V100 (TensorFlow of NGC 19.06).

Li et al., IPDPS 2020. Batch size 256 where nothing else is said. MB in the paper are MiB: its
intensities follow only so. Kernels' and layers' FLOPs are in 1e9, rates in 1e12 per second.
"""

from __future__ import annotations

FIGURE_2 = {"M": 275.1, "M/L": 432.1, "M/L/G": 490.3}
"""Latency of the model in ms by what is traced; M/L is M and the 157 ms of section III-C."""
FIRST_LAYER_ADDED_MS = 0.24
"""What tracing kernels added to the first convolution, which has 3 kernels (Figure 2)."""

COUNTS = {
    "layer_calls": 234,
    "layers_below_1_ms": 143,
    "kernels": 375,
    "kernels_below_1_ms": 284,
    "kernel_names": 30,
}
"""Captions of Tables II, III and IV."""

LAYERS = {
    "layer4.1.conv2": (
        208,
        "conv2d_48",
        7.59,
        25.7,
        7.45,
        79.74,
        362.67,
        548.50,
        19.43,
        83.46,
        10.70,
    ),
    "layer4.2.conv2": (
        221,
        "conv2d_51",
        7.57,
        25.7,
        7.43,
        79.74,
        368.11,
        551.70,
        19.43,
        82.68,
        10.73,
    ),
    "layer4.0.conv2": (
        195,
        "conv2d_45",
        5.67,
        25.7,
        5.55,
        59.20,
        36.51,
        17.99,
        15.80,
        1036.10,
        10.67,
    ),
    "conv1": (3, "conv2d", 5.08, 822.1, 4.91, 62.89, 11.55, 284.21, 13.23, 202.78, 12.80),
    "layer3.0.conv2": (
        113,
        "conv2d_26",
        4.67,
        51.4,
        4.57,
        59.22,
        76.65,
        21.36,
        15.31,
        576.17,
        12.94,
    ),
}
"""Tables II and V, by the name that torchvision gives the layer: index, name, latency and allocated
MiB; its kernels' latency, FLOPs, MiB read and written, occupancy in %, intensity, rate.
"""

KERNELS = (
    ("layer4.2.conv2", 221, "cgemm_32x32_tn", 6.04, 77.42, 40.33, 43.86, 12.18, 876.97, 12.82),
    ("layer4.1.conv2", 208, "cgemm_32x32_tn", 6.03, 77.42, 43.93, 43.81, 12.19, 841.59, 12.83),
    ("layer4.0.conv2", 195, "scudnn_128x128_…", 5.48, 59.20, 27.71, 8.40, 15.49, 1563.30, 10.80),
    ("conv1", 3, "scudnn_128x64_…", 4.91, 62.89, 11.55, 283.05, 13.20, 203.58, 12.81),
    ("layer2.0.conv2", 57, "scudnn_128x128_…", 4.56, 59.24, 34.83, 37.64, 15.15, 779.55, 12.99),
)
"""Table III: torchvision's name of the layer, its index there, name after `volta_`, latency, FLOPs,
MiB read and written, occupancy in %, intensity, rate. None is memory-bound. Layer 57 is 56 before
layer 113: 4 blocks of 13 layers, a projection of 3 and a padding.
"""

NAMES = (
    (
        "scudnn_128x64_…",
        34,
        84.95,
        30.87,
        1053.63,
        4429.64,
        5494.22,
        22.58,
        101.25,
        12.40,
        False,
    ),
    ("Eigen scalar_product_op", 52, 28.43, 10.33, 2.85, 4181.23, 6371.12, 49.72, 0.26, 0.10, True),
    ("Eigen scalar_sum_op", 51, 26.38, 9.59, 2.64, 4063.49, 6052.22, 49.69, 0.25, 0.10, True),
    ("Eigen scalar_max_op", 48, 24.71, 8.98, 0.0, 3773.84, 5699.95, 98.39, 0.0, 0.0, True),
    (
        "scudnn_128x128_…",
        4,
        23.02,
        8.37,
        276.64,
        671.68,
        335.01,
        15.96,
        262.08,
        12.02,
        False,
    ),
)
"""Table IV: name, count, latency, % of the model's, FLOPs, MiB read and written, occupancy in %,
intensity, rate, whether memory-bound.
"""

TYPES = (
    ("convolution", "Conv2D", (22.65, 58.56, 22.66), ("Conv2d",)),
    (
        "normalisation and residual sums",
        "Mul, Add, AddN",
        (51.71, 29.62, 55.06),
        ("BatchNorm2d", "add"),
    ),
    ("ReLU", "Relu", (20.94, 9.71, 19.62), ("ReLU",)),
)
"""Figure 4: what, the paper's types, their % of layers, latency and allocated memory, and the types
here. TensorFlow makes a multiplication and an addition of each normalisation.
"""
TYPES_OTHER = (4.72, 2.11, 2.65)

LARGEST = 256
BATCHES = {
    1: (6.21, 5.01, 7.94, 192.49, 194.16, 22.65, False),
    2: (6.83, 5.93, 16.08, 290.41, 354.54, 22.47, False),
    4: (8.51, 7.68, 30.95, 659.11, 720.15, 26.39, False),
    8: (12.80, 11.60, 60.66, 1676.07, 1496.81, 31.97, False),
    16: (21.90, 20.14, 118.04, 3969.19, 3024.09, 35.58, True),
    32: (40.03, 37.14, 232.78, 7711.50, 5823.97, 38.76, True),
    64: (74.03, 67.72, 429.08, 10932.22, 9268.27, 43.18, False),
    128: (142.89, 131.79, 873.63, 16071.32, 16105.40, 44.48, False),
    256: (275.05, 254.25, 1742.39, 23185.11, 31095.45, 43.15, False),
}
"""Table VI: model's latency, kernels' latency, FLOPs, MiB read and written, occupancy in %, whether
memory-bound.
"""

CHOSEN = frozenset({*LAYERS, *(row[0] for row in KERNELS)})
"""Layers, by torchvision's names, of which the paper prints figures."""
SYSTEM = (15.7, 900.0, 17.44)
"""Table VII: TFLOP/s, GB/s, FLOP/byte."""
SUMMARY = (6.22, 930.7, 256, 58.7)
"""Table VIII: latency at batch 1, inputs/s at most, optimal batch size, % of convolutions."""
STAGES = "BEME"
"""Table IX, row 7: the third with most latency, allocated memory, FLOPs, memory access."""
