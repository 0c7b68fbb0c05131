"""The zoo: models by name, built from configurations with random weights; nothing is downloaded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from own_models import TEXT_WIDTH, LSTMLanguageModel, Recommender, UNet
from torch import Tensor, nn

Inputs = dict[str, Tensor] | tuple[Tensor, ...]
Built = tuple[nn.Module, Inputs]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo. `build(batch)` makes it in float32 on the default device, with its
    inputs.

    `precision` on a GPU: "fp16" or "bf16" for weights and inputs of that type, "amp" for float32
    weights under autocast to float16.
    """

    family: str
    source: str
    batch: int
    build: Callable[[int], Built]
    precision: str = "fp16"
    channels_last: bool = False


_DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "amp": torch.float32,
    "fp32": torch.float32,
}


def target(entry: Entry, batch: int, device: str) -> tuple[nn.Module, Inputs]:
    """The model on `device`, ready for inference, and its inputs; in float32 on a CPU."""
    dtype = _DTYPES[entry.precision] if device == "cuda" else torch.float32
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # libraries warn that weights are random, which is the intention here
        model, inputs = entry.build(batch)
    layout: dict[str, Any] = {"memory_format": torch.channels_last} if entry.channels_last else {}
    model = model.eval().requires_grad_(False).to(device, dtype, **layout)
    if isinstance(inputs, tuple):
        return model, tuple(_converted(value, dtype, layout) for value in inputs)
    return model, {name: _converted(value, dtype, layout) for name, value in inputs.items()}


def _converted(value: Tensor, dtype: torch.dtype, layout: Mapping[str, Any]) -> Tensor:
    return value.to(dtype, **layout) if value.is_floating_point() else value


@contextlib.contextmanager
def modes(entry: Entry, device: str) -> Iterator[None]:
    """The modes that the model runs under: inference, and autocast where its precision says so."""
    amp = device == "cuda" and entry.precision == "amp"
    with (
        torch.inference_mode(),
        torch.autocast(device, torch.float16) if amp else contextlib.nullcontext(),
    ):
        yield


def _images(batch: int, pixels: int) -> tuple[Tensor, ...]:
    return (torch.rand(batch, 3, pixels, pixels),)


def _tokens(batch: int, length: int, vocabulary: int = 1000) -> Tensor:
    return torch.randint(1, vocabulary, (batch, length))


def torchvision(name: str, pixels: int = 224, **options: Any) -> Callable[[int], Built]:
    def build(batch: int) -> Built:
        from torchvision import models

        return models.get_model(name, weights=None, **options), _images(batch, pixels)

    return build


def _timm(name: str, pixels: int = 224) -> Callable[[int], Built]:
    def build(batch: int) -> Built:
        import timm

        return timm.create_model(name, pretrained=False), _images(batch, pixels)

    return build


def _transformer(
    architecture: str, config: str, inputs: Callable[[int], Inputs], **options: Any
) -> Callable[[int], Built]:
    def build(batch: int) -> Built:
        import transformers

        made = getattr(transformers, config)(**options)
        return getattr(transformers, architecture)(made), inputs(batch)

    return build


def _text(length: int) -> Callable[[int], Inputs]:
    return lambda batch: {"input_ids": _tokens(batch, length)}


def _sequences(batch: int) -> Inputs:
    return {"input_ids": _tokens(batch, 128), "decoder_input_ids": _tokens(batch, 64)}


def _speech(batch: int) -> Inputs:
    return {"input_features": torch.randn(batch, 80, 3000), "decoder_input_ids": _tokens(batch, 32)}


def _image_and_text(batch: int) -> Inputs:
    return {"input_ids": _tokens(batch, 77), "pixel_values": torch.rand(batch, 3, 224, 224)}


def _clips(batch: int) -> tuple[Tensor, ...]:
    return (torch.rand(batch, 3, 16, 112, 112),)


def _video(batch: int) -> Built:
    from torchvision.models.video import r3d_18

    return r3d_18(weights=None), _clips(batch)


def _optical_flow(batch: int) -> Built:
    from torchvision.models.optical_flow import raft_small

    return raft_small(weights=None), (*_images(batch, 256), *_images(batch, 256))


def _diffusion(batch: int) -> Built:
    step = torch.randint(0, 1000, (batch,))
    return UNet(), (torch.randn(batch, 4, 64, 64), step, torch.randn(batch, 77, TEXT_WIDTH))


def _recommendation(batch: int) -> Built:
    rows = 200_000
    model = Recommender(rows=rows)
    return model, (torch.rand(batch, 13), torch.randint(0, rows, (len(model.tables), batch, 10)))


def _recurrent(batch: int) -> Built:
    return LSTMLanguageModel(), (_tokens(batch, 128),)


_NO_AUXILIARY = {"init_weights": False, "aux_logits": False}
_NO_BACKBONE = {"weights_backbone": None}
# A few layers of a large model's shape: its kernels are the large model's, its capture is small.
_DECODER = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "use_cache": False,
}

CNN, VIT, DETECTION, LANGUAGE, SPEECH = (
    "CNN",
    "vision transformer",
    "detection",
    "language",
    "speech",
)

ZOO: dict[str, Entry] = {
    "resnet50": Entry(CNN, "torchvision", 32, torchvision("resnet50")),
    "bert_base": Entry(
        LANGUAGE, "transformers", 16, _transformer("BertModel", "BertConfig", _text(128))
    ),
    "vit_b_16": Entry(VIT, "torchvision", 32, torchvision("vit_b_16")),
    "gpt2": Entry(
        LANGUAGE,
        "transformers",
        8,
        _transformer("GPT2LMHeadModel", "GPT2Config", _text(256), use_cache=False),
    ),
    "unet_diffusion": Entry("diffusion", "own", 4, _diffusion),
    "dlrm": Entry("recommendation", "own", 2048, _recommendation),
    "fasterrcnn_resnet50_fpn": Entry(
        DETECTION,
        "torchvision",
        2,
        torchvision("fasterrcnn_resnet50_fpn", 640, **_NO_BACKBONE),
        "amp",
    ),
    "whisper_small": Entry(
        SPEECH,
        "transformers",
        4,
        _transformer(
            "WhisperModel",
            "WhisperConfig",
            _speech,
            d_model=768,
            encoder_layers=12,
            decoder_layers=12,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
            use_cache=False,
        ),
    ),
    "llama_8_layers": Entry(
        LANGUAGE,
        "transformers",
        8,
        _transformer("LlamaForCausalLM", "LlamaConfig", _text(256), **_DECODER),
    ),
    "deeplabv3_resnet50": Entry(
        "segmentation", "torchvision", 4, torchvision("deeplabv3_resnet50", 512, **_NO_BACKBONE)
    ),
    "lstm": Entry("recurrent", "own", 32, _recurrent),
    "mobilenet_v2": Entry(CNN, "torchvision", 32, torchvision("mobilenet_v2")),
    "resnet50_channels_last": Entry(
        CNN, "torchvision", 32, torchvision("resnet50"), channels_last=True
    ),
    "mixtral_4_layers": Entry(
        LANGUAGE,
        "transformers",
        4,
        _transformer(
            "MixtralForCausalLM",
            "MixtralConfig",
            _text(256),
            **{**_DECODER, "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 4},
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        "bf16",
    ),
    "swin_t": Entry(VIT, "torchvision", 32, torchvision("swin_t")),
    "convnext_tiny": Entry(CNN, "torchvision", 32, torchvision("convnext_tiny")),
    "efficientnet_b0": Entry(CNN, "torchvision", 32, torchvision("efficientnet_b0")),
    "densenet121": Entry(CNN, "torchvision", 32, torchvision("densenet121")),
    "vgg16": Entry(CNN, "torchvision", 32, torchvision("vgg16", init_weights=False)),
    "alexnet": Entry(CNN, "torchvision", 128, torchvision("alexnet")),
    "t5_small": Entry(
        LANGUAGE,
        "transformers",
        8,
        _transformer(
            "T5ForConditionalGeneration", "T5Config", _sequences, num_layers=6, use_cache=False
        ),
    ),
    "wav2vec2_base": Entry(
        SPEECH,
        "transformers",
        4,
        _transformer(
            "Wav2Vec2Model",
            "Wav2Vec2Config",
            lambda batch: {"input_values": torch.randn(batch, 48_000)},
        ),
    ),
    "retinanet_resnet50_fpn": Entry(
        DETECTION,
        "torchvision",
        2,
        torchvision("retinanet_resnet50_fpn", 640, **_NO_BACKBONE),
        "amp",
    ),
    "fcn_resnet50": Entry(
        "segmentation", "torchvision", 4, torchvision("fcn_resnet50", 512, **_NO_BACKBONE)
    ),
    "clip_vit_b_32": Entry(
        "image and text",
        "transformers",
        32,
        _transformer("CLIPModel", "CLIPConfig", _image_and_text),
    ),
    "deit_small": Entry(VIT, "timm", 64, _timm("deit_small_patch16_224")),
    "beit_base": Entry(VIT, "timm", 32, _timm("beit_base_patch16_224")),
    "mixer_b_16": Entry("MLP", "timm", 32, _timm("mixer_b16_224")),
    "maxvit_t": Entry(VIT, "torchvision", 16, torchvision("maxvit_t")),
    "roberta_base": Entry(
        LANGUAGE, "transformers", 16, _transformer("RobertaModel", "RobertaConfig", _text(128))
    ),
    "distilbert": Entry(
        LANGUAGE,
        "transformers",
        16,
        _transformer("DistilBertModel", "DistilBertConfig", _text(128)),
    ),
    "opt_125m": Entry(
        LANGUAGE,
        "transformers",
        8,
        _transformer("OPTForCausalLM", "OPTConfig", _text(256), use_cache=False),
    ),
    "modernbert_base": Entry(
        LANGUAGE,
        "transformers",
        16,
        _transformer("ModernBertModel", "ModernBertConfig", _text(256)),
    ),
    "qwen3_8_layers": Entry(
        LANGUAGE,
        "transformers",
        8,
        _transformer("Qwen3ForCausalLM", "Qwen3Config", _text(256), **_DECODER, head_dim=128),
    ),
    "mistral_8_layers": Entry(
        LANGUAGE,
        "transformers",
        1,
        _transformer("MistralForCausalLM", "MistralConfig", _text(32), **_DECODER),
    ),
    "mobilenet_v3_large": Entry(CNN, "torchvision", 32, torchvision("mobilenet_v3_large")),
    "inception_v3": Entry(
        CNN, "torchvision", 32, torchvision("inception_v3", 299, **_NO_AUXILIARY)
    ),
    "googlenet": Entry(CNN, "torchvision", 32, torchvision("googlenet", **_NO_AUXILIARY)),
    "squeezenet1_1": Entry(CNN, "torchvision", 32, torchvision("squeezenet1_1")),
    "shufflenet_v2_x1_0": Entry(CNN, "torchvision", 32, torchvision("shufflenet_v2_x1_0")),
    "regnet_y_8gf": Entry(CNN, "torchvision", 32, torchvision("regnet_y_8gf")),
    "resnext50_32x4d": Entry(CNN, "torchvision", 32, torchvision("resnext50_32x4d")),
    "wide_resnet50_2": Entry(CNN, "torchvision", 32, torchvision("wide_resnet50_2")),
    "efficientnet_v2_s": Entry(CNN, "torchvision", 32, torchvision("efficientnet_v2_s")),
    "ssdlite320_mobilenet_v3_large": Entry(
        DETECTION,
        "torchvision",
        8,
        torchvision("ssdlite320_mobilenet_v3_large", 320, **_NO_BACKBONE),
        "amp",
    ),
    "r3d_18": Entry("video", "torchvision", 8, _video),
    "coatnet_0": Entry("convolution and attention", "timm", 32, _timm("coatnet_0_rw_224")),
    "poolformer_s12": Entry(CNN, "timm", 32, _timm("poolformer_s12")),
    "hrnet_w18": Entry(CNN, "timm", 8, _timm("hrnet_w18")),
    "raft_small": Entry("optical flow", "torchvision", 1, _optical_flow, "amp"),
}
"""What to measure, most telling first: a run that ends early has at least one model of each
family.
"""
