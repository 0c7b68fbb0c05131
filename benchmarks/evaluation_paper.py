"""Table 2 of MLModelScope (Dakkak et al., CLOUD 2020): TensorFlow on a V100 (AWS P3), and which of
our models are the same networks.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A row: latencies of one input (trimmed mean, 90th percentile), and the most inputs a second
    with the batch that reaches it.
    """

    name: str
    tm_ms: float
    p90_ms: float
    per_s: float
    batch: int


ROWS = (
    Published("Inception_ResNet_v2", 23.95, 24.2, 346.6, 128),
    Published("Inception_v4", 17.36, 17.6, 436.7, 128),
    Published("Inception_v3", 9.2, 9.48, 811.0, 64),
    Published("ResNet_v2_152", 14.44, 14.65, 466.8, 256),
    Published("ResNet_v2_101", 10.31, 10.55, 671.7, 256),
    Published("ResNet_v1_152", 13.67, 13.9, 541.3, 256),
    Published("MLPerf_ResNet50_v1.5", 6.33, 6.53, 930.7, 256),
    Published("ResNet_v1_101", 9.93, 10.08, 774.7, 256),
    Published("AI_Matrix_ResNet152", 14.58, 14.72, 468.0, 256),
    Published("ResNet_v2_50", 6.17, 6.35, 1119.7, 256),
    Published("ResNet_v1_50", 6.31, 6.41, 1284.6, 256),
    Published("AI_Matrix_ResNet50", 6.11, 6.25, 1060.3, 256),
    Published("Inception_v2", 6.28, 6.56, 2032.0, 128),
    Published("AI_Matrix_DenseNet121", 11.17, 11.49, 846.4, 32),
    Published("MLPerf_MobileNet_v1", 2.46, 2.66, 2576.4, 128),
    Published("VGG16", 22.43, 22.59, 687.5, 256),
    Published("VGG19", 23.0, 23.31, 593.4, 256),
    Published("MobileNet_v1_1.0_224", 2.59, 2.75, 2580.6, 128),
    Published("AI_Matrix_GoogleNet", 5.43, 5.55, 2464.5, 128),
    Published("MobileNet_v1_1.0_192", 2.55, 2.67, 3460.8, 128),
    Published("Inception_v1", 5.27, 5.41, 2576.6, 128),
    Published("BVLC_GoogLeNet", 6.05, 6.17, 951.7, 8),
    Published("MobileNet_v1_0.75_224", 2.48, 2.61, 3183.7, 64),
    Published("MobileNet_v1_1.0_160", 2.57, 2.74, 4240.5, 64),
    Published("MobileNet_v1_0.75_192", 2.42, 2.6, 4187.8, 64),
    Published("MobileNet_v1_0.75_160", 2.48, 2.65, 5569.6, 64),
    Published("MobileNet_v1_1.0_128", 2.29, 2.46, 6743.2, 64),
    Published("MobileNet_v1_0.5_224", 2.39, 2.58, 3346.5, 64),
    Published("MobileNet_v1_0.75_128", 2.3, 2.47, 8378.4, 64),
    Published("MobileNet_v1_0.5_192", 2.48, 2.67, 4453.2, 64),
    Published("MobileNet_v1_0.5_160", 2.42, 2.58, 6148.7, 64),
    Published("BVLC_AlexNet", 2.33, 2.5, 2495.8, 64),
    Published("MobileNet_v1_0.5_128", 2.21, 2.33, 8924.0, 64),
    Published("MobileNet_v1_0.25_224", 2.46, 3.40, 5257.9, 64),
    Published("MobileNet_v1_0.25_192", 2.44, 2.6, 7135.7, 64),
    Published("MobileNet_v1_0.25_160", 2.39, 2.53, 10081.5, 256),
    Published("MobileNet_v1_0.25_128", 2.28, 2.46, 10707.6, 256),
)

_SAME = {
    "inception_resnet_v2": "Inception_ResNet_v2",
    "inception_v4": "Inception_v4",
    "inception_v3": "Inception_v3",
    "resnetv2_152": "ResNet_v2_152",
    "resnetv2_101": "ResNet_v2_101",
    "resnetv2_50": "ResNet_v2_50",
    "resnet152": "ResNet_v1_152",
    "resnet101": "ResNet_v1_101",
    "resnet50": "MLPerf_ResNet50_v1.5",
    "densenet121": "AI_Matrix_DenseNet121",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "googlenet": "Inception_v1",
    "alexnet": "BVLC_AlexNet",
}
_MOBILENET = "mobilenet_v1_"


def published(model: str) -> Published | None:
    """The paper's row for one of our models."""
    name = _SAME.get(model)
    if model.startswith(_MOBILENET):
        multiplier, size = model.removeprefix(_MOBILENET).split("_")
        name = f"MobileNet_v1_{float(multiplier)}_{size}"
    return next((row for row in ROWS if row.name == name), None)
