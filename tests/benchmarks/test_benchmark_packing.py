"""The benchmark of packing measures what its name says, on the trainers of the stages."""

from __future__ import annotations

import pytest

from benchmarks import packing
from benchmarks._vlm_models import WORDS
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm


@pytest.fixture
def small() -> Vlm:
    return make_vlm(WORDS, hidden=32, layers=1, vision=32, vision_layers=1)


@pytest.mark.parametrize("kind", sorted(packing.KINDS))
def test_both_ways_are_measured(kind: str, small: Vlm) -> None:
    found = packing.measure(small, packing.Work(kind, "tiny", 2), 3)
    assert {way: len(speeds) for way, speeds in found.items()} == {"packed": 3, "apart": 3}
    assert min(min(speeds) for speeds in found.values()) > 0


@pytest.mark.parametrize("kind", sorted(packing.KINDS))
def test_packed_runs_each_state_once_and_apart_each_text(kind: str, small: Vlm) -> None:
    rows: list[int] = []
    for on in (True, False):
        update = packing.KINDS[kind](small, 2, packing=on)
        hook = small.model.model.register_forward_pre_hook(
            lambda module, given, named: rows.append(len(named["input_ids"])), with_kwargs=True
        )
        update()
        hook.remove()
    packed, *apart = rows
    assert (packed, sum(apart)) == (2, 2 * (2 if kind == "stage_1" else packing.CANDIDATES))
