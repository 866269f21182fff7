"""Small random models of the families that transformers is used for most."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from networks.network import Input, Network, Subject
from networks.torchvision_loads import make_torchvision_load

WIDTH, HEADS, LAYERS, INNER, VOCABULARY, LONGEST = 64, 4, 2, 128, 99, 64
IMAGE = 64
TOKENS = Input("input_ids", ("N", "T"), below=VOCABULARY)
ATTENDED = Input("attention_mask", ("N", "T"), mask=True)
DECODED = Input("decoder_input_ids", ("N", "D"), below=VOCABULARY)
SOUND = Input("input_values", ("N", "L"))
PIXELS = Input("pixel_values", ("N", 3, IMAGE, IMAGE))
TEXT_SIZES = ({"T": 17, "D": 7}, {"T": 29, "D": 11})


class Called(nn.Module):
    """A transformers model that takes tensors in order and gives the named outputs."""

    def __init__(self, model: nn.Module, inputs: tuple[Input, ...], outputs: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = [value.name for value in inputs]
        self.outputs = outputs

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None, third: torch.Tensor | None = None):
        given = [value for value in (first, second, third) if value is not None]
        found = self.model(**dict(zip(self.names, given, strict=True)))
        return tuple(found[name] for name in self.outputs)


def _subject(kind: str, settings: dict, inputs: tuple[Input, ...], outputs: tuple[str, ...], sizes=({}, {})) -> Subject:
    """`kind` is the name of a model class; its own configuration class is filled with `settings`."""
    make_torchvision_load()
    import transformers

    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**settings)).eval()
    used = {size for value in inputs for size in value.shape if isinstance(size, str)}
    sizes = tuple({name: size for name, size in choice.items() if name in used} for choice in sizes)
    return Subject(Called(model, inputs, outputs), inputs, sizes)


TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": LONGEST,
}


def _encoder(kind: str, **more) -> Callable[[], Subject]:
    return partial(_subject, kind, TEXT | more, (TOKENS, ATTENDED), ("logits",), TEXT_SIZES)


def _decoder(kind: str) -> Callable[[], Subject]:
    """A language model in which two query heads share one key-value head."""
    settings = TEXT | {"num_key_value_heads": HEADS // 2, "use_cache": False}
    return partial(_subject, kind, settings, (TOKENS, ATTENDED), ("logits",), TEXT_SIZES)


DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": WIDTH,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "hidden_dim": INNER,
    "max_position_embeddings": LONGEST,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": LONGEST,
    "use_cache": False,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": WIDTH // HEADS,
    "d_ff": INNER,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "use_cache": False,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
    "max_position_embeddings": LONGEST,
    "use_cache": False,
}
VIT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "image_size": IMAGE,
    "patch_size": 8,
    "num_labels": 10,
}
SWIN = {
    "image_size": IMAGE,
    "patch_size": 4,
    "embed_dim": 32,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 10,
}
CLIP = {
    "text_config": {**TEXT, "eos_token_id": VOCABULARY - 1},
    "vision_config": {**VIT, "num_labels": 2},
    "projection_dim": 32,
}
WHISPER = {
    **BART,
    "num_mel_bins": 16,
    "max_source_positions": 30,
    "max_target_positions": LONGEST,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
WAV2VEC2 = {
    "vocab_size": 32,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "conv_dim": [32, 32, 32],
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SEGFORMER = {
    "num_encoder_blocks": 3,
    "depths": [2, 2, 2],
    "sr_ratios": [4, 2, 1],
    "hidden_sizes": [16, 32, 64],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "num_attention_heads": [1, 2, 4],
    "mlp_ratios": [2, 2, 2],
    "decoder_hidden_size": 32,
    "num_labels": 10,
}
DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
    "num_queries": 9,
    "num_labels": 10,
}
IMAGE_SIZES = ({"H": IMAGE, "W": IMAGE}, {"H": 96, "W": 128})
ANY_IMAGE = Input("pixel_values", ("N", 3, "H", "W"))


def _detr() -> Subject:
    make_torchvision_load()
    from transformers import ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 48], depths=[1, 2], out_features=["stage2"], layer_type="basic"
    )
    outputs = ("logits", "pred_boxes")
    return _subject("DetrForObjectDetection", {**DETR, "backbone_config": backbone}, (ANY_IMAGE,), outputs, IMAGE_SIZES)


FAMILIES: dict[str, Callable[[], Subject]] = {
    "bert": _encoder("BertForSequenceClassification"),
    "roberta": _encoder("RobertaForMaskedLM", max_position_embeddings=LONGEST + 2, pad_token_id=0),
    "distilbert": partial(
        _subject, "DistilBertForSequenceClassification", DISTILBERT, (TOKENS, ATTENDED), ("logits",), TEXT_SIZES
    ),
    "electra": _encoder("ElectraForTokenClassification", embedding_size=WIDTH // 2),
    "gpt2": partial(_subject, "GPT2LMHeadModel", GPT2, (TOKENS, ATTENDED), ("logits",), TEXT_SIZES),
    "llama": _decoder("LlamaForCausalLM"),
    "mistral": _decoder("MistralForCausalLM"),
    "qwen2": _decoder("Qwen2ForCausalLM"),
    "t5": partial(_subject, "T5ForConditionalGeneration", T5, (TOKENS, ATTENDED, DECODED), ("logits",), TEXT_SIZES),
    "bart": partial(
        _subject, "BartForConditionalGeneration", BART, (TOKENS, ATTENDED, DECODED), ("logits",), TEXT_SIZES
    ),
    "vit": partial(_subject, "ViTForImageClassification", VIT, (PIXELS,), ("logits",)),
    "swin": partial(_subject, "SwinForImageClassification", SWIN, (PIXELS,), ("logits",)),
    "clip": partial(
        _subject,
        "CLIPModel",
        CLIP,
        (TOKENS, PIXELS, ATTENDED),
        ("text_embeds", "image_embeds", "logits_per_text"),
        TEXT_SIZES,
    ),
    "whisper": partial(
        _subject,
        "WhisperForConditionalGeneration",
        WHISPER,
        (Input("input_features", ("N", 16, 60)), DECODED),
        ("logits",),
        TEXT_SIZES,
    ),
    "wav2vec2": partial(_subject, "Wav2Vec2ForCTC", WAV2VEC2, (SOUND,), ("logits",), ({"L": 800}, {"L": 1230})),
    "segformer": partial(
        _subject, "SegformerForSemanticSegmentation", SEGFORMER, (ANY_IMAGE,), ("logits",), IMAGE_SIZES
    ),
    "detr": _detr,
}


def networks() -> list[Network]:
    return [Network(f"transformers/{name}", make) for name, make in FAMILIES.items()]
