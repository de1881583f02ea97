"""Trajectories as each stage of the original writes them: a success after 4 steps, a time limit, and an empty one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

HORIZON = 10
STATE_DIM, ACTION_DIM, CANDIDATES = 6, 8, 4
LAYOUTS = ("digirl", "digiq", "gradio", "vllm")


def autoui(x: float, y: float) -> str:
    point = f"[{y:.4f}, {x:.4f}]"
    fields = f'"action_type": "DUAL_POINT", "touch_point": "{point}", "lift_point": "{point}", "typed_text": ""'
    return f"Action Plan: [DUAL_POINT] ; Action Decision: {fields}"


def make_trajectory(
    layout: str, *, length: int, success: bool, seed: int = 0, candidates: int = CANDIDATES
) -> list[dict[str, Any]]:
    """The steps of one trajectory in a layout; the features and actions follow from the seed."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(length + 1, STATE_DIM)).astype(np.float32)
    points = rng.integers(1, 9, (length, candidates, 2)) / 10
    task = f"Search for mug {seed}"
    steps, previous = [], "Previous Actions: "
    for number in range(length):
        texts = [autoui(x, y) for x, y in points[number]]
        following = "Previous Actions: " + texts[0].partition("Action Decision: ")[2] + " "
        reward = int(success and number == length - 1)
        step: dict[str, Any] = {
            "observation": f"{previous}Goal: {task}</s>",
            "next_observation": f"{following}Goal: {task}</s>",
            "image_features": states[number],
            "next_image_features": states[number + 1],
            "task": task,
            "reward": reward,
            "done": number == length - 1,
            "action": texts[0],
            "trajectory_reward": np.int64(success),
            "mc_return": np.float64(0.95 ** (length - 1 - number) * success),
        }
        step["image_path"] = f"/data/images/test3/171515521{seed}.5_{number + (layout == 'digirl')}.png"
        if layout != "digirl":
            step["image_path"] = f"<path_to_images>/images/test3/171515521{seed}.5_{number}.png"
            vectors = rng.normal(size=(candidates, ACTION_DIM)).astype(np.float32)
            step["q_rep_out_list"] = list(vectors) if layout == "gradio" else vectors
            step["q_rep_out"] = vectors[0]
            step["action_list"] = texts if layout == "gradio" else "<split>".join(texts)
        if layout == "vllm":
            step["q_response_list"] = ["Yes"] * candidates
            step["pred_q_response"] = step["state_summarization"] = "unknown"
        steps.append(step)
        previous = following
    return steps


def make_trajectories(layout: str) -> list[list[dict[str, Any]]]:
    return [
        make_trajectory(layout, length=4, success=True, seed=1),
        [],
        make_trajectory(layout, length=HORIZON, success=False, seed=2),
    ]


def save(path: Path, trajectories: object, **options: Any) -> Path:
    torch.save(trajectories, path, **options)
    return path
