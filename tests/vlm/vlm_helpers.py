"""Pictures, actions, and tiny random models of several families, to show that all go through the same code.

A family is built with a byte-level tokenizer and real processor, saved, and loaded as a person would load it.
"""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from digiq_ray.vlm.model import Vlm

TASKS = ("open mail", "buy a red mug on ebuy", "turn on wifi")
ACTIONS = ("back", "home", "tap 0.50 0.24", "tap 0.84 0.92", "type red mug", "swipe 0.50 0.80 0.50 0.20")
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
_TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
}
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def png(width: int = 96, height: int = 192, shift: int = 0) -> bytes:
    """A picture with a gradient down and another across, in which every row differs."""
    image = Image.new("RGB", (width, height))
    image.putdata([((x + shift) % 256, y * 255 // height, 99) for y in range(height) for x in range(width)])
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _need_torchvision(what: str) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip(f"torchvision is missing: Transformers needs it for {what}")


def _tokenizer(*special: str, **named: str) -> Any:
    core = Tokenizer(models.BPE({char: index for index, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(special),
        **({"extra_special_tokens": named} if named else {}),
    )


def _ends(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def _llava_next() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image>")
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32]]
    )
    processor = transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION, image_size=32, patch_size=16, projection_dim=16),
        text_config=transformers.LlamaConfig(**_TEXT, vocab_size=len(tokenizer), **_ends(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32]],
        vision_feature_layer=-1,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    tokenizer = _tokenizer(boi_token="<boi>", eoi_token="<eoi>", image_token="<soft>")
    images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=_TEMPLATE.replace("IMAGE", "<boi>")
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**_VISION, image_size=32, patch_size=16).to_dict(),
        text_config={**_TEXT, "head_dim": 8, "vocab_size": len(tokenizer), **_ends(tokenizer)},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def _idefics3() -> tuple[Any, Any]:
    _need_torchvision("Idefics3's image processor")
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    tokenizer = _tokenizer("<image>", "<fake_token_around_image>", "<global-img>", *rows)
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    template = _TEMPLATE.replace("IMAGE", "<image>")
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=template)
    config = transformers.Idefics3Config(
        vision_config={**_VISION, "image_size": 32, "patch_size": 16},
        text_config=transformers.LlamaConfig(**_TEXT, vocab_size=len(tokenizer), **_ends(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


def _qwen2_5_vl() -> tuple[Any, Any]:
    _need_torchvision("Qwen-VL's processor, for videos")
    tokenizer = _tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    limits = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessorPil(size=limits),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16,
            "fullatt_block_indexes": [1],
        },
        text_config={**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, **_ends(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava_next": _llava_next,
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "qwen2_5_vl": _qwen2_5_vl,
}


def fresh(vlm: Vlm) -> Vlm:
    """The same model again, free to be changed."""
    return Vlm(copy.deepcopy(vlm.model), vlm.processor, template=vlm.template_name, fit=vlm.transform.fit)


def alone(vlm: Vlm, screen: dict[str, torch.Tensor], ids: Sequence[int]) -> Any:
    """What Transformers makes of one unpadded row in one pass, with positions of its own and all hidden states."""
    row = torch.tensor([list(ids)])
    images = vlm.transform.batch([screen], torch.float32)
    with torch.inference_mode():
        return vlm.model(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True, **images)
