"""A tiny VLM of the LLaVA-1.5 architecture, for laptops: about half a million parameters, a word-level tokenizer.

It is a real Transformers model: ``save_pretrained``, ``from_pretrained``, a processor with a chat template. Only its
size and its vocabulary are toys. ``load_tiny`` gives the pre-trained behaviour policy that ships with the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from digiq_ray.core.actions import ActionType
from digiq_ray.vlm.images import Fit
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.prompts import COMPACT, NO_HISTORY

SHIPPED = Path(__file__).parent / "tiny_vlm"
IMAGE_SIZE, PATCH = 96, 16
GRID = 50
HEAD = 32  # width of the language model's heads: the narrowest that vLLM's attention on CPUs computes
_TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def vocabulary(words: Iterable[str]) -> list[str]:
    """Special tokens, words of prompts and grammar, coordinates on a grid of 0.02, and ``words``; each once."""
    prompts = " ".join((COMPACT.prefix, COMPACT.act, COMPACT.change, COMPACT.yes, COMPACT.no, NO_HISTORY))
    fixed = [word for word in prompts.split() if "{" not in word] + [str(kind) for kind in ActionType]
    numbers = [f"{i / GRID:.2f}" for i in range(GRID + 1)]
    return list(dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", "<image>", *fixed, *numbers, *sorted(set(words))]))


def make_processor(words: Iterable[str], *, image: int = IMAGE_SIZE, patch: int = PATCH) -> LlavaProcessor:
    """Word-level tokenizer (split at white space, lower case but for the prompts' own words) and image processor."""
    tokens = {word: index for index, word in enumerate(vocabulary(words))}
    core = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )
    images = CLIPImageProcessorPil(
        size={"height": image, "width": image},
        crop_size={"height": image, "width": image},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=_TEMPLATE,
    )


def make_vlm(
    words: Iterable[str],
    *,
    seed: int = 0,
    image: int = IMAGE_SIZE,
    patch: int = PATCH,
    vision: int = 64,
    vision_layers: int = 2,
    hidden: int = 96,
    layers: int = 3,
    head: int = HEAD,
    room: int = 512,
) -> Vlm:
    """A VLM with random weights (scales chosen so that it trains quickly: large position embeddings).

    Args:
        words: What its tokenizer knows beside the prompts and the grammar.
        seed: Decides the weights.
        image, patch: Width of the square image and of its patches, in pixels.
        vision, vision_layers: Width and depth of the image tower.
        hidden, layers, head: Width and depth of the language model, and width of its heads.
        room: Most tokens of a prompt with its answer.
    """
    heads = max(1, hidden // head)
    processor = make_processor(words, image=image, patch=patch)
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision,
            intermediate_size=2 * vision,
            num_hidden_layers=vision_layers,
            num_attention_heads=max(4, vision // 64),
            image_size=image,
            patch_size=patch,
            projection_dim=vision,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=room,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image // patch) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    scales = {"patch_embedding": 0.05, "position_embedding": 0.5, "class_embedding": 0.1}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for part, scale in scales.items():
                if part in name:
                    parameter.normal_(0, scale)
    return Vlm(model.eval(), processor, template="compact", fit=Fit.STRETCH, version="untrained")


def load_tiny() -> Vlm:
    """The pre-trained tiny VLM that ships with the package: the behaviour policy of the demo."""
    return Vlm.load(SHIPPED)
