"""Alarms: the known ways in which a training goes wrong without ending, each with its cause and what to change.

Pure functions of the figures that the stages leave; a figure that is missing, or that could not be measured, raises
nothing. The limits lie between what healthy runs of the recipe on simulated phones showed (named beside each; 24 runs,
and four where it says so) and what a planted fault did, nearer to the fault: an alarm at every run is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

#: Variance of Q over candidates against over states. Healthy: 0.23 to 0.80; features that do not know the action: 0.
LEAST_SENSITIVITY: Final = 0.01
#: The same, over what it is where Q is noise (see ``sensitivity``). Healthy: 0.08 to 0.23; features that were shuffled:
#: 0.90 and 0.96 on general, 0.97 on webshop.
MOST_OF_CHANCE_SENSITIVITY: Final = 0.5
#: Share of states whose best candidate has Q above V. Healthy: 0.74 to 0.96, since V is the candidates' mean.
LEAST_POSITIVE_ADVANTAGE: Final = 0.02
#: Mean TD error of the last third over the least of its moving average. Healthy: 1.0 to 1.14, which is noise.
MOST_TD_GROWTH: Final = 2.0
#: Largest |Q| over the largest value that the rewards allow. Healthy (four runs): 1.13 to 1.22.
MOST_Q_OVER_BOUND: Final = 1.5
#: How far an update moves the targets over the error that it is to reduce. Healthy (four runs): 0.01; tau=1:
#: 0.11, which still learns; tau=1 and a learning rate of 0.1: 0.27.
MOST_TARGET_CHANGE: Final = 0.2
#: Kendall's rank correlation of two heads; 0 is chance. Healthy (four runs): 0.66 to 0.80; noise: 0.08.
LEAST_AGREEMENT: Final = 0.2
#: Share of the commoner label. At 99 % a batch of 32 mostly has no example of the other.
MOST_ONE_LABEL: Final = 0.99

#: Largest less smallest sum of an episode's rewards. Healthy: 1, since some episodes fail and some succeed.
SAME_RETURN: Final = 0.0
#: Most candidates of a state. Healthy: 16, what ``candidates.k`` draws, or nearly so.
LEAST_CANDIDATES: Final = 2

_LEAST_POINTS = 9  # of a curve: below, a third of it is no trend


@dataclass(frozen=True, slots=True)
class Alarm:
    """A figure beyond its limit.

    Attributes:
        name: Which failure, as an identifier.
        stage: Of the recipe.
        value, limit: What was measured, and the least or most that passes.
        cause: What it means and where it comes from.
        change: Which settings to change.
    """

    name: str
    stage: str
    value: float
    limit: float
    cause: str
    change: str

    def to_json(self) -> dict[str, Any]:
        """As in ``report.json``."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """One line for a person."""
        return f"{self.name}: {self.value:.3g} (limit {self.limit:g}). {self.cause}; {self.change}"


def critic_alarms(figures: Mapping[str, Any]) -> list[Alarm]:
    """What is wrong with a critic.

    Args:
        figures: Of the stage train-critic: ``action_sensitivity``, ``chance_sensitivity``, ``rank_agreement``,
            ``q_largest``, ``value_bound``, ``most_candidates`` of a state, ``least_return`` and ``largest_return`` of
            an episode, and the curves ``curve`` (points ``[step, TD error, ...]``) and ``target_curve``
            (``[step, value]``).
    """
    found: list[Alarm] = []

    def ring(name: str, value: float, limit: float, cause: str, change: str) -> None:
        found.append(Alarm(name, "train-critic", value, limit, cause, change))

    least, largest = figures.get("least_return"), figures.get("largest_return")
    if least is not None and largest is not None and largest - least <= SAME_RETURN:
        ring(
            "every_return_is_the_same",
            largest - least,
            SAME_RETURN,
            f"the rewards of every episode sum to {largest:g}: if all succeed, Q can learn nothing from their ends but "
            "how far they are (the discount)",
            "collect episodes of which some fail: other or harder tasks (tasks.set), a warmer behaviour policy "
            "(collect.temperature), or more of them (collect.episodes)",
        )
    alone = figures.get("most_candidates") == 1
    if alone:
        ring(
            "nothing_to_choose",
            1.0,
            LEAST_CANDIDATES,
            "every state has one candidate only, so V is the Q of what is done anyway and best-of-N has nothing to "
            "choose",
            "sample more and warmer candidates (candidates.k, candidates.temperature)",
        )
    sensitivity, agreement = figures.get("action_sensitivity"), figures.get("rank_agreement")
    # Where Q is the same everywhere it ignores nothing that it should have seen: there is no variance to compare with.
    varies = bool(figures.get("variance_over_states"))
    blind = sensitivity is not None and varies and sensitivity < LEAST_SENSITIVITY and not alone
    noise = _over(sensitivity, figures.get("chance_sensitivity"))
    if blind:
        ring(
            "q_ignores_the_action",
            sensitivity or 0.0,
            LEAST_SENSITIVITY,
            "Q varies over states but hardly over the candidates of a state: the features do not hold the action, or "
            "all candidates of a state are alike",
            "train stage 1 for longer (finetune.steps), take features.pooling=last_and_action, or sample more and "
            "warmer candidates (candidates.k, candidates.temperature)",
        )
    elif noise is not None and noise > MOST_OF_CHANCE_SENSITIVITY:  # whose order two heads may well agree on
        ring(
            "q_does_not_know_the_state",
            noise,
            MOST_OF_CHANCE_SENSITIVITY,
            "Q varies over states hardly more than the mean of that many random numbers would: the features do not say "
            "how good a state is, or are not those of the episodes and candidates beside them",
            "look whether features, episodes and candidates are of one run and embed them again (digiq embed), or "
            "train stage 1 and the critic for longer (finetune.steps, critic.steps)",
        )
    elif agreement is not None and agreement < LEAST_AGREEMENT:  # the order of a blind Q is noise anyway
        ring(
            "rankings_unreliable",
            agreement,
            LEAST_AGREEMENT,
            "two heads that saw the same data order the candidates of a state almost independently: the order is "
            "noise of the start, not knowledge",
            "collect more episodes (collect.episodes), or learn less by heart (fewer critic.steps, more "
            "critic.dropout, smaller critic.q_widths)",
        )
    td = _values(figures.get("curve"))
    growth = td_growth(td)
    if growth is not None and growth > MOST_TD_GROWTH:
        ring(
            "td_error_grows",
            growth,
            MOST_TD_GROWTH,
            "the TD error is a multiple of what it had been: Q follows targets that run away from it",
            "lower critic.learning_rate or critic.tau, or set critic.clip",
        )
    over = _over(figures.get("q_largest"), figures.get("value_bound"))
    if over is not None and over > MOST_Q_OVER_BOUND:
        ring(
            "q_out_of_range",
            over,
            MOST_Q_OVER_BOUND,
            "Q is larger than any return that the rewards and the discount allow: values feed on themselves",
            "lower critic.learning_rate, critic.tau or critic.gamma, or bound values with critic.loss=hl_gauss",
        )
    change = target_change(_values(figures.get("target_curve")), td)
    if change is not None and change > MOST_TARGET_CHANGE:
        ring(
            "targets_move_too_fast",
            change,
            MOST_TARGET_CHANGE,
            "each update moves the targets by much of the error that it is to reduce: Q cannot settle",
            "lower critic.tau, or critic.learning_rate",
        )
    return found


def extraction_alarms(figures: Mapping[str, Any]) -> list[Alarm]:
    """What is wrong with best-of-N.

    Args:
        figures: Of the method ``digi_q`` of the stage train-policy: ``positive_advantage``.
    """
    share = figures.get("positive_advantage")
    if share is None or share >= LEAST_POSITIVE_ADVANTAGE:
        return []
    return [
        Alarm(
            "no_positive_advantage",
            "train-policy",
            share,
            LEAST_POSITIVE_ADVANTAGE,
            "in almost no state Q of the best supported candidate exceeds V: V lies too high, or states have a single "
            "supported candidate, so there is nothing to improve on",
            "sample more and warmer candidates (candidates.k, candidates.temperature), lower policy.min_support, or "
            "train the critic for longer (critic.steps)",
        )
    ]


def finetune_alarms(figures: Mapping[str, Any]) -> list[Alarm]:
    """What is wrong with stage 1.

    Args:
        figures: Of the stage finetune: ``labels`` with counts ``changed`` and ``unchanged``, and the curve
            ``answer_loss`` (points ``[step, value]``).
    """
    found = []
    labels = figures.get("labels") or {}
    changed, unchanged = labels.get("changed", 0), labels.get("unchanged", 0)
    share = max(changed, unchanged) / (changed + unchanged) if changed + unchanged else 0.0
    if share > MOST_ONE_LABEL:
        cause, change = (
            (
                "almost every step counts as a change of the screen: a clock or an animation, or too low a threshold",
                "leave the moving parts out (finetune.ignore_top, finetune.ignore_boxes) or raise finetune.threshold",
            )
            if changed > unchanged
            else (
                "almost no step counts as a change of the screen: too high a threshold, or screens that went stale",
                "lower finetune.threshold, or look at the recorded screens",
            )
        )
        found.append(Alarm("labels_degenerate", "finetune", share, MOST_ONE_LABEL, cause, change))
    loss = _values(figures.get("answer_loss"))
    if loss and min(loss) == 0.0:
        found.append(
            Alarm(
                "loss_is_zero",
                "finetune",
                0.0,
                0.0,
                "the loss of the answers is exactly zero, so nothing is learnt: all labels are the same, or the "
                "answer is not part of what is predicted",
                "look at the labels' balance and at the model's answers; lower finetune.learning_rate",
            )
        )
    return found


def td_growth(values: Sequence[float]) -> float | None:
    """Mean TD error over the last third of its curve, over the least of its moving average (a tenth of the points).

    ``None`` for a curve that is too short to have a trend, or that is zero somewhere.
    """
    if len(values) < _LEAST_POINTS:
        return None
    width = max(3, len(values) // 10)
    least = min(math.fsum(values[i : i + width]) / width for i in range(len(values) - width + 1))
    return _mean(values[-(len(values) // 3) :]) / least if least > 0 else None


def target_change(changes: Sequence[float], errors: Sequence[float]) -> float | None:
    """How far an update moves the targets, as a share of the TD error, over both curves.

    The target critic follows at ``tau`` per update, so a healthy share is a small part of ``tau``. A share of 1 means
    that the targets have gone elsewhere by the time the critic has answered them. The whole training counts, since a
    falling learning rate calms any of them in the end. ``None`` without an error.
    """
    if len(changes) < _LEAST_POINTS or len(changes) != len(errors):
        return None
    error = _mean(errors)
    return _mean(changes) / error if error > 0 else None


def _over(value: float | None, bound: float | None) -> float | None:
    return value / bound if value is not None and bound else None


def _values(curve: Sequence[Sequence[float]] | None) -> list[float]:
    return [point[1] for point in curve or ()]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
