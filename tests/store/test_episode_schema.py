"""The columns of episodes, and the exact round trip between an ``Episode`` and its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digiq_ray.core.actions import Action, ActionType, press, swipe, tap, type_text
from digiq_ray.core.episodes import Episode, Step, StopReason, screen_hash
from digiq_ray.core.errors import InputError
from digiq_ray.core.tasks import Task
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_episode, rows_to_table

MakeEpisode = Callable[..., Episode]

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_UNIT = st.floats(0, 1)
_NUMBER = st.floats(allow_nan=False)
_ACTION: st.SearchStrategy[Action] = st.one_of(
    st.builds(tap, _UNIT, _UNIT),
    st.builds(swipe, _UNIT, _UNIT, _UNIT, _UNIT),
    st.builds(type_text, _TEXT),
    st.sampled_from([press(kind) for kind in (ActionType.BACK, ActionType.WAIT, ActionType.COMPLETE)]),
)


@st.composite
def _steps(draw: st.DrawFn) -> tuple[Step, ...]:
    def step(last: bool) -> Step:
        return Step(
            screen=draw(st.binary(max_size=20)),
            action_text=None if last else draw(_TEXT),
            action=None if last else draw(st.none() | _ACTION),
            parse_error=draw(st.none() | _TEXT),
            reward=draw(_NUMBER),
            behaviour_logprob=draw(st.none() | _NUMBER),
            started_at=draw(_NUMBER),
            ended_at=draw(_NUMBER),
            settle_tag=draw(st.none() | st.sampled_from(["unsettled", "frozen", "blank"])),
        )

    return (*(step(last=False) for _ in range(draw(st.integers(0, 3)))), step(last=True))


_EPISODE = st.builds(
    Episode,
    episode_id=_TEXT,
    task=st.builds(
        Task,
        task_id=_TEXT,
        text=_TEXT,
        horizon=st.integers(0, 2**31 - 1),
        split=_TEXT,
        kind=_TEXT,
        goal=st.dictionaries(_TEXT, _TEXT, max_size=3),
        seed=st.integers(-(2**63), 2**63 - 1),
    ),
    steps=_steps(),
    stop_reason=st.sampled_from(StopReason),
    policy_version=_TEXT,
    device=_TEXT,
    judge=_TEXT,
)


@settings(max_examples=80, deadline=None)
@given(episode=_EPISODE)
def test_an_episode_comes_back_from_its_columns_exactly(episode: Episode) -> None:
    table = rows_to_table(episode_to_rows(episode), EPISODE_SCHEMA)
    assert rows_to_episode(table.to_pylist()) == episode


def test_the_columns_are_those_of_the_design() -> None:
    columns = (
        "episode_id step task_id task split kind seed goal screen screen_hash action action_type x y x2 y2 typed_text "
        "parse_error reward is_first is_last is_terminal stop_reason policy_version device judge behaviour_logprob "
        "started_at ended_at horizon settle_tag"
    )
    assert " ".join(EPISODE_SCHEMA.names) == columns
    assert EPISODE_SCHEMA.metadata == {b"digiq.kind": b"episodes", b"digiq.schema_version": b"2"}


def test_there_is_one_row_for_each_observation_and_the_last_has_no_action(make_episode: MakeEpisode) -> None:
    rows = episode_to_rows(make_episode(0, actions=3))
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["is_first"] for row in rows] == [True, False, False, False]
    assert [row["is_last"] for row in rows] == [False, False, False, True]
    assert [row["action"] is None for row in rows] == [False, False, False, True]
    assert rows[0]["screen_hash"] == screen_hash(make_episode(0).steps[0].screen)


@pytest.mark.parametrize("reason", StopReason)
def test_only_the_last_row_of_a_terminal_episode_is_terminal(make_episode: MakeEpisode, reason: StopReason) -> None:
    rows = episode_to_rows(make_episode(0, actions=2, stop_reason=reason))
    expected = reason in (StopReason.SUCCESS, StopReason.AGENT_STOP)
    assert [row["is_terminal"] for row in rows] == [False, False, expected]


def test_an_episode_without_observations_is_refused(make_episode: MakeEpisode) -> None:
    with pytest.raises(InputError, match="has no observation"):
        episode_to_rows(dataclasses.replace(make_episode(0), steps=()))


def test_an_episode_whose_last_observation_has_an_action_is_refused(make_episode: MakeEpisode) -> None:
    episode = make_episode(0)
    with pytest.raises(InputError, match="step 2: the last observation must have no action"):
        episode_to_rows(dataclasses.replace(episode, steps=episode.steps[:-1]))


def test_an_episode_with_a_missing_action_before_the_last_is_refused(make_episode: MakeEpisode) -> None:
    episode = make_episode(0)
    with pytest.raises(InputError, match="step 0: only the last may have no action"):
        episode_to_rows(dataclasses.replace(episode, steps=(episode.steps[-1], *episode.steps)))


@pytest.mark.parametrize("change", [{"device": "\ud800"}, {"device": 3}])
def test_a_value_that_fits_no_column_is_refused(make_episode: MakeEpisode, change: dict[str, object]) -> None:
    rows = episode_to_rows(dataclasses.replace(make_episode(0), **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not fit the columns of episodes"):
        rows_to_table(rows, EPISODE_SCHEMA)


def test_a_seed_beyond_64_bits_is_refused(make_episode: MakeEpisode) -> None:
    episode = make_episode(0)
    task = dataclasses.replace(episode.task, seed=2**64)
    with pytest.raises(InputError, match="does not fit the columns of episodes"):
        rows_to_table(episode_to_rows(dataclasses.replace(episode, task=task)), EPISODE_SCHEMA)


@pytest.mark.parametrize("kept", [slice(1, None), slice(None, -1), slice(None, None, 2)])
def test_rows_that_are_not_one_whole_episode_are_refused(make_episode: MakeEpisode, kept: slice) -> None:
    rows = episode_to_rows(make_episode(0))
    with pytest.raises(ValueError, match="is not whole at step"):
        rows_to_episode(rows[kept])


def test_screens_may_exceed_what_32_bit_offsets_reach() -> None:
    assert EPISODE_SCHEMA.field("screen").type == pa.large_binary()
