"""What a benchmark prints and writes: medians with their spread, ratios that compare like with like."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report import Report, Spread, interleave, options, ratio


def test_a_figure_is_its_median_with_its_extremes() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)
    assert str(Spread.of([5.0, 1.0, 2.0])) == "2 (1 to 5)"
    assert str(Spread.of([12345.6])) == "12,346 (12,346 to 12,346)"


def test_a_ratio_compares_medians_and_ranges_over_the_repeats() -> None:
    assert ratio([10.0, 20.0, 60.0], [1.0, 4.0, 5.0]) == Spread(5.0, 5.0, 12.0)


def test_a_ratio_of_different_numbers_of_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0, 2.0], [1.0])


def test_ways_take_turns() -> None:
    done: list[str] = []

    def way(name: str) -> int:
        done.append(name)
        return len(done)

    found = interleave({"a": lambda: way("a"), "b": lambda: way("b")}, 3)
    assert done == ["a", "b"] * 3
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_the_json_holds_what_the_design_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "--quick", "--json", "somewhere.json"])
    text = io.StringIO()
    rows = [{"way": "old", "seconds": Spread(2.0, 1.0, 3.0)}, {"way": "new", "seconds": Spread(0.5, 0.5, 0.5)}]
    report = Report(name="thing", rows=rows, ratios={"speedup": Spread(4.0, 2.0, 6.0)})
    report.publish(tmp_path / "thing.json", Console(file=text, width=120))
    found = json.loads((tmp_path / "thing.json").read_text())
    assert {"name", "date", "machine", "command", "rows", "ratios"} <= set(found)
    assert found["command"] == "python -m benchmarks.thing --quick"
    assert found["rows"][0] == {"way": "old", "seconds": {"median": 2.0, "min": 1.0, "max": 3.0}}
    assert (found["ratios"], found["ranges"]) == ({"speedup": 4.0}, {"speedup": [2.0, 6.0]})
    assert "2 (1 to 3)" in text.getvalue()
    assert "speedup 4 (2 to 6)" in text.getvalue()


def test_the_options_are_those_of_every_benchmark_and_its_own() -> None:
    given = options("text", ["--quick", "--json", "x.json", "--where-to", "here"], where_to={"default": "there"})
    assert (given.quick, given.json, given.where_to) == (True, Path("x.json"), "here")
