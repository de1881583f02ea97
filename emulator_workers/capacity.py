"""What a cluster lacks for workers that wait to be placed, in one line that says how to mend it."""

from __future__ import annotations

from collections.abc import Mapping

Amounts = Mapping[str, float]


def in_words(amounts: Amounts) -> str:
    """``1 android, 0.5 cpu``; what is nothing is left out."""
    return ", ".join(f"{amount:g} {name.lower()}" for name, amount in sorted(amounts.items()) if amount) or "nothing"


def lacking(takes: Amounts, total: Amounts, free: Amounts) -> list[str]:
    """The resources of which less is free than one worker takes, scarcest first: those no node has come first."""
    short = [name for name, amount in takes.items() if free.get(name, 0.0) < amount]
    return sorted(short, key=lambda name: (total.get(name, 0.0) >= takes[name], name))


def why_waiting(pending: int, *, takes: Amounts, total: Amounts, free: Amounts) -> str:
    """Why ``pending`` workers are not placed, and what to do about it.

    Args:
        pending: How many wait.
        takes: What one worker takes, by Ray's names (``CPU``, ``android``).
        total, free: What the cluster has, and what nobody has taken.
    """
    many = f"{pending} worker{'s wait' if pending != 1 else ' waits'}"
    short = lacking(takes, total, free)
    if not short:
        return f"{many} to start: nothing is lacking, but processes and policies take their time to load"
    name = short[0]
    has, left = total.get(name, 0.0), max(0.0, free.get(name, 0.0))
    if has < takes[name]:
        more = "--num-cpus" if name == "CPU" else f"--resources '{{\"{name}\": {takes[name]:g}}}'"
        return (
            f"{many} for {takes[name]:g} {name.lower()} each, but no node offers it: "
            f"add a node started with ray start {more}"
        )
    return (
        f"{many} for {takes[name]:g} {name.lower()} each: the cluster has {has:g} and {left:g} free; "
        f"add nodes with {name.lower()}, or ask for fewer workers"
    )
