"""Settings that differ from the defaults together: what the paper says, and what its released code does.

``legacy`` follows ``DigiRL-agent/digiq`` at commit 8181379 in what concerns labels, critic and extraction: its wide
heads without normalisation, a target critic that starts from weights of its own, values that follow the executed
action, the larger of two heads, step limits as ends, an advantage of 0.10 that is asked for (0.05 on webshop).

What it leaves out of the released code, and why:

* three text encoders that are trained with the critic, the pair of image features, and what Q sees of the state beside
  the VLM's feature: features are frozen here, and are what the store holds (10,752 and 5,120 numbers give its heads);
* the gradient is clipped once an update, not after each of four micro-batches, which favours the last of them;
* the other source of V's target, one random candidate for a whole batch: it has the mean over all (``candidates``),
  which ``backup=candidates`` takes without the noise;
* N columns of the candidates that all states of a batch share: each state draws its own;
* two outputs and a soft maximum where the critic classifies: one logit is the same function (``loss=logistic``);
* defects: the regression of returns that broadcasts to ``(B, B)``, the clamp that takes the gradient from unlikely
  tokens, weights of AWR that overflow, a policy gradient without its negative terms.

``long`` is for long horizons with rare success, where the regularised critic ranks better and yet teaches less
(measured on validation tasks of *webshop*, whose default it is: 43 against 34 % success).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "long": {"critic": {"n_step": 5, "aggregate": "min", "dropout": 0.0, "conservative": 0.0}},
    "paper": {
        "candidates": {"k": 64},
        "critic": {
            "gamma": 0.95,
            "n_step": 1,
            "aggregate": "min",
            "dropout": 0.0,
            "conservative": 0.0,
        },
        "policy": {"n": 16, "margin": 0.0, "min_support": 1, "support_radius": 0.0},
    },
    "legacy": {
        "candidates": {"k": 64, "temperature": 1.2},
        "finetune": {"ignore_top": 0.0},
        "critic": {
            "gamma": 0.95,
            "n_step": 1,
            "backup": "executed",
            "truncation": "end",
            "targets": "own",
            "hard_copy": False,
            "tau": 0.1,
            "aggregate": "max",
            "q_widths": [0, 3840, 3840, 3840],
            "v_widths": [2304, 2304, 2304],
            "activation": "relu",
            "layer_norm": False,
            "dropout": 0.0,
            "normalise": "none",
            "conservative": 0.0,
            "steps": 800,
            "batch": 128,
            "learning_rate": 1e-5,
            "weight_decay": 0.0,
            "schedule": "constant",
            "clip": 0.01,
        },
        "policy": {
            "n": 16,
            "keep_executed": True,
            "margin": 0.10,
            "min_support": 1,
            "support_radius": 0.0,
            "steps": 900,
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0,
            "clip": 0.01,
        },
    },
}
_ON_WEBSHOP: dict[str, dict[str, dict[str, Any]]] = {"legacy": {"policy": {"margin": 0.05}}}


def with_preset(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with the values of the preset that it names wherever it says nothing itself.

    Where it names none, long tasks have ``long``.
    What is no section, or no known preset, is left for validation to refuse.
    """
    found, tasks = dict(data), data.get("tasks")
    long = isinstance(tasks, Mapping) and tasks.get("set") == "webshop"
    name = found.setdefault("preset", "long" if long else "default")
    if not isinstance(name, str):
        return found
    for values_of in (_ON_WEBSHOP if long else {}, PRESETS):
        for section, values in values_of.get(name, {}).items():
            given = found.get(section)
            if given is None or isinstance(given, Mapping):
                found[section] = {**values, **(given or {})}
    return found
