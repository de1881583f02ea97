"""What tests with a real vLLM share: whether it can run here, tiny models of three families, an engine in this process.

A test that cannot run is skipped and says what is missing; with DIGIQ_REQUIRE_VLLM=1 it fails instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psutil
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from digiq_ray.core.errors import InputError
from digiq_ray.vlm.images import Fit
from digiq_ray.vlm.model import Vlm
from serve.backends import check_backend
from serve.vllm_start import prepare

REQUIRED = "DIGIQ_REQUIRE_VLLM"
HIDDEN, LAYERS = 64, 4
_BOS, _EOS, _PAD = "<s>", "</s>", "<pad>"
_TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}


def need_vllm() -> None:
    """Skips the test, or fails it, where vLLM is not installed."""
    try:
        check_backend("vllm")
    except InputError as error:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but {error}")
        pytest.skip(str(error))


def picture(shift: int = 0, *, width: int = 96, height: int = 192, mark: int | None = None) -> bytes:
    """A picture in which every row and column differs, with a white row ``mark``."""
    image = Image.new("RGB", (width, height))
    image.putdata([((5 * x + shift) % 256, y * 255 // height, 99) for y in range(height) for x in range(width)])
    if mark is not None:
        image.paste((255, 255, 255), (0, mark, width, mark + 1))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _tokenizer(*special: str) -> Any:
    core = Tokenizer(models.BPE({char: index for index, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        additional_special_tokens=list(special),
    )


def _ends(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def _llava() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image>")
    size = {"height": 56, "width": 56}
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2,
            image_size=56, patch_size=14, projection_dim=64,
        ),
        text_config=transformers.LlamaConfig(**_TEXT, vocab_size=len(tokenizer), **_ends(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


def _qwen_tokenizer() -> tuple[Any, dict[str, int]]:
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = _tokenizer(*names)
    keys = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return tokenizer, {key: tokenizer.convert_tokens_to_ids(name) for key, name in zip(keys, names, strict=True)}


def _qwen2_5_vl() -> tuple[Any, Any]:
    tokenizer, ids = _qwen_tokenizer()
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessorPil(size=size),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(size=size),
        chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1], "window_size": 112, "patch_size": 14,
        },
        text_config={**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, **_ends(tokenizer)},
        **ids,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl() -> tuple[Any, Any]:
    tokenizer, ids = _qwen_tokenizer()
    size = {"shortest_edge": 64 * 64, "longest_edge": 128 * 128}
    shape = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    processor = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessorPil(**shape),
        tokenizer,
        transformers.Qwen3VLVideoProcessor(**shape),
        chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 10000.0, "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        vision_config={
            "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": HIDDEN,
            "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
        },
        text_config={**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, **_ends(tokenizer)},
        **ids,
    )  # fmt: skip
    return transformers.Qwen3VLForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}


def random_vlm(family: str, *, seed: int = 0) -> Vlm:
    """A random model whose every weight matters to what it says."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family]()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.08)
    return Vlm(model.eval(), processor, template="compact", fit=Fit.LETTERBOX, version=f"{family}-{seed}")


def processes_of(served: Any) -> list[psutil.Process]:
    """Those of the engine behind a ``VllmPolicy`` or ``VllmFeatures``."""
    manager = served._engine.engine_core.resources.engine_manager
    return [psutil.Process(one.pid) for one in manager.processes]


class InProcess:
    """The part of ``AsyncLLM`` that features need, on an engine in this process; starts in seconds."""

    errored = False

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=True))
        self.renderer, self.model_config = self._engine.renderer, self._engine.model_config
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._pump: asyncio.Task[None] | None = None
        self.cached_tokens: dict[str, int] = {}

    async def encode(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        self._engine.add_request(request_id, prompt, params)
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        yield await self._waiting[request_id]

    async def _run(self) -> None:
        while self._engine.has_unfinished_requests():
            for answer in self._engine.step():
                self.cached_tokens[answer.request_id] = answer.num_cached_tokens
                self._waiting.pop(answer.request_id).set_result(answer)
            await asyncio.sleep(0)

    def shutdown(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()


@contextlib.contextmanager
def in_process(arguments: Callable[[], dict[str, Any]]) -> Iterator[InProcess]:
    """An engine in this process, with what vLLM changes of it put back."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    before, threads, set_threads = os.environ.get(name), torch.get_num_threads(), torch.set_num_threads
    os.environ[name] = "0"
    prepare()
    engine = InProcess(arguments())
    try:
        yield engine
    finally:
        engine.shutdown()
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
