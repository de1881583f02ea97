"""Features and candidate actions: vLLM against Transformers, on a random model of the LLaVA-1.5 shape.

``python -m benchmarks.vlm [--quick] [--shape mid|2b|7b] --json FILE``. Three ways to do the same work, in turns, on
screenshots that none of them has seen:

*batched* is what one writes with Transformers: every prompt whole, K (or n) at once, SDPA; for features with the layers
above the wanted one cut off, for candidates ``generate`` with ``num_return_sequences``. On a CPU it is measured with
one thread and with all, and the better one counts. *prefix* is this project's Transformers engine, which runs a
state's image and task once. *vllm* is this project's vLLM engine, with its prefix cache. All three begin with the
encoded screenshot and end with arrays and texts. Candidates are measured a second time with one token each: that is
what reading the prompt costs, and the rest is what writing costs.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks._vlm_models import SHAPES, actions, requests, save_random
from benchmarks.report import Report, Spread, interleave, options, ratio
from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.batching import pad
from digiq_ray.vlm.features import FeatureExtractor, Pooling
from digiq_ray.vlm.model import Vlm
from serve.engine import open_engine
from serve.protocols import Engine, Reader, State

TOKENS = 16
"""Most tokens of a candidate."""
DEADLINE_S = 1800.0
Times = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work: its name, how many rows (features, or candidates) each screenshot gets, and of which length."""

    name: str
    rows: int
    screens: int
    tokens: int = TOKENS

    @property
    def label(self) -> str:
        """Its name in the table."""
        short = "" if self.name == "features" or self.tokens == TOKENS else f"_{self.tokens}_token"
        return f"{self.name}_{self.rows}{short}"


class Batched:
    """Transformers with whole prompts."""

    def __init__(self, model: Path, layer: int, device: str, dtype: torch.dtype) -> None:
        self._reader = FeatureExtractor(Vlm.load(model, device=device, dtype=dtype), layer=layer, pooling=Pooling.LAST)
        self._policy = Vlm.load(model, device=device, dtype=dtype)

    @torch.inference_mode()
    def features(self, request: ActRequest, texts: Sequence[str]) -> np.ndarray:
        """``[1 + n, dim]``: of the state, then of it with each action."""
        vlm = self._reader.vlm
        screen = vlm.transform.prepare(request.screen)
        prefix = vlm.prefix_ids(screen, request.task, request.history)
        prompts = [[*prefix, *vlm.act_ids()], *([*prefix, *vlm.change_ids(text)[0]] for text in texts)]
        ids, mask = pad(prompts, vlm.pad_id, left=True)
        inputs = {"input_ids": ids, "attention_mask": mask, **vlm.transform.batch([screen] * len(prompts), self._dtype)}
        hidden = vlm.model.model(**self._there(inputs), use_cache=False).last_hidden_state
        return np.asarray(hidden[:, -1].float().cpu().numpy())

    @torch.inference_mode()
    def candidates(self, request: ActRequest, samples: int, tokens: int) -> list[str]:
        """Sampled texts."""
        vlm = self._policy
        screen = vlm.transform.prepare(request.screen)
        ids = torch.tensor([[*vlm.prefix_ids(screen, request.task, request.history), *vlm.act_ids()]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **vlm.transform.batch([screen], self._dtype),
        }
        found = vlm.model.generate(
            **self._there(inputs), do_sample=True, top_k=0, max_new_tokens=tokens, num_return_sequences=samples
        )
        return [vlm.text_of(row[ids.shape[1] :].tolist()) for row in found]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self._policy.model.parameters()).dtype

    def _there(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self._policy.model.device) for name, value in inputs.items()}


class Stream:
    """States that nobody has seen before, and the seconds that work on some of them takes."""

    def __init__(self, work: Work) -> None:
        self._work, self._next = work, 0

    def time(self, run: Callable[[Sequence[ActRequest], Sequence[Sequence[str]]], Any]) -> float:
        """Rows a second."""
        count, start = self._work.screens, self._next
        self._next += count
        asked, texts = requests(count, start), [actions(self._work.rows, start + n) for n in range(count)]
        began = time.perf_counter()
        run(asked, texts)
        return count * self._work.rows / (time.perf_counter() - began)


def with_threads(threads: int, run: Times) -> Times:
    """``run`` with so many of torch's threads."""

    def timed() -> float:
        torch.set_num_threads(threads)
        return run()

    return timed


def ways_of(work: Work, batched: Batched, prefix: Engine, vllm: Engine, model: str, layer: int) -> dict[str, Times]:
    """The ways to do ``work``, each as a function that does some and returns rows a second."""
    stream, reader = Stream(work), Reader(model, layer, Pooling.LAST)

    def by_batches(asked: Sequence[ActRequest], texts: Sequence[Sequence[str]]) -> None:
        for request, row in zip(asked, texts, strict=True):
            if work.name == "features":
                batched.features(request, row)
            else:
                batched.candidates(request, work.rows, work.tokens)

    def by(engine: Engine) -> Callable[[Sequence[ActRequest], Sequence[Sequence[str]]], None]:
        def run(asked: Sequence[ActRequest], texts: Sequence[Sequence[str]]) -> None:
            if work.name == "features":
                states = [State(one.screen, one.task, one.history) for one in asked]
                engine.embed(reader, states, texts, deadline=DEADLINE_S)
            else:
                engine.sample(model, asked, samples=work.rows, temperature=1.0, deadline=DEADLINE_S)

        return run

    counts = sorted({1, os.cpu_count() or 1}) if not torch.cuda.is_available() else [1]
    plain = {f"batched, {n} threads": with_threads(n, lambda: stream.time(by_batches)) for n in counts}
    shared = {f"prefix, {n} threads": with_threads(n, lambda: stream.time(by(prefix))) for n in counts}
    return {**plain, **shared, "vllm": lambda: stream.time(by(vllm))}


def best(found: Mapping[str, Sequence[float]], way: str) -> Sequence[float]:
    """The speeds of ``way`` with the number of threads that has the higher median."""
    return max((speeds for name, speeds in found.items() if name.startswith(way)), key=statistics.median)


def ratios_of(work: Work, found: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """The ratios of one kind of work, by name; *hf* and *naive* are both *batched*.

    Args:
        work: Features have the actions a screenshot in the name (``_k16``).
        found: Rows a second of each way, in order of the repeats.
    """
    plain, shared, vllm = best(found, "batched"), best(found, "prefix"), best(found, "vllm")
    end = f"_k{work.rows}" if work.name == "features" else work.label.removeprefix(f"{work.name}_{work.rows}")
    return {
        f"{work.name}_vllm_over_hf{end}": ratio(vllm, plain),
        f"{work.name}_prefix_over_naive{end}": ratio(shared, plain),
        f"{work.name}_vllm_over_prefix{end}": ratio(vllm, shared),
    }


def main() -> None:
    """Command line."""
    given = options(__doc__, shape={"choices": sorted(SHAPES), "default": "mid", "help": "size of the model"})
    cuda, console = torch.cuda.is_available(), Console(stderr=True)
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)  # of vLLM's processes
    shape, repeats = SHAPES[given.shape], 1 if given.quick else 3
    layer = shape.layers // 2
    kinds = [Work("features", 16, 2), Work("features", 64, 1), Work("candidates", 16, 2), Work("candidates", 16, 2, 1)]
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Spread] = {}
    with tempfile.TemporaryDirectory() as place:
        dtype = torch.bfloat16 if cuda else torch.float32
        size = save_random(shape, Path(place), dtype)
        gc.collect()
        batched = Batched(Path(place), layer, "cuda" if cuda else "cpu", dtype)
        for tokens, group in groupby(kinds, key=lambda work: work.tokens):
            prefix, vllm = (open_engine(kind, max_tokens=tokens, batch=64) for kind in ("transformers", "vllm"))
            try:
                for work in group:
                    ways = ways_of(work, batched, prefix, vllm, place, layer)
                    console.print(f"[dim]{work.label.replace('_', ' ')} a screenshot: warming up[/]")
                    interleave(ways, 1)
                    found = interleave(ways, repeats, console)
                    for name, speeds in found.items():
                        rows.append({"work": work.label, "way": name, "rows_per_second": Spread.of(speeds)})
                    ratios |= ratios_of(work, found)
            finally:
                prefix.close()
                vllm.close()
    notes = [
        f"{size / 1e6:.1f} million parameters, 576 image tokens, layer {layer} of {shape.layers}, {dtype}",
        f"{repeats} repeats of {[f'{one.screens} screenshots with {one.label}' for one in kinds]}",
    ]
    Report(name="vlm", rows=rows, ratios=ratios, notes=notes).publish(given.json)


if __name__ == "__main__":
    main()
