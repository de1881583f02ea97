import math
import re
import threading
from xml.etree import ElementTree

import matplotlib
import pytest

from digiq_ray.evaluation.plots import Bar, interval_bars, loss_curve, q_distribution, td_curve
from digiq_ray.evaluation.svg import colour, inline_svg

BARS = [Bar("Behaviour", 0.31, (0.25, 0.38), "behaviour"), Bar("Digi-Q", 0.62, None, "digiq", pale=True)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_bars_are_labelled_with_name_and_rate():
    found = texts(interval_bars(BARS, label="Success"))
    assert {"Behaviour", "Digi-Q", "31%", "62%"} <= set(found)


def test_a_name_with_markup_or_formulas_is_plain_text():
    name = "<b>$x^2$ & more"
    assert name in texts(interval_bars([Bar(name, 0.5, None, "other")], label="Success"))


def test_bars_of_one_name_stand_under_one_label():
    pair = [Bar("Digi-Q", 0.6, None, "digiq"), Bar("Digi-Q", 0.7, None, "digiq", pale=True)]
    assert texts(interval_bars(pair, label="Success")).count("Digi-Q") == 1


def test_more_bars_make_a_higher_figure():
    def height(bars: list[Bar]) -> float:
        return float(ElementTree.fromstring(interval_bars(bars, label="x")).attrib["viewBox"].split()[3])

    assert height(BARS * 4) > height(BARS * 3)


def test_the_figure_says_what_it_shows():
    root = ElementTree.fromstring(interval_bars(BARS, label="Success of <all>"))
    assert (root.tag, root.attrib["role"], root.attrib["aria-label"]) == ("svg", "img", "Success of <all>")


def test_colours_are_variables_of_the_page():
    svg = interval_bars(BARS, label="Success")
    assert "var(--behaviour)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_the_font_is_that_of_the_page():
    assert "font-family" not in interval_bars(BARS, label="Success")


def test_an_unknown_colour_is_refused():
    with pytest.raises(KeyError):
        colour("pink")


def test_a_long_curve_keeps_a_small_figure():
    long = [[step, 1 / (step + 1)] for step in range(100_000)]
    assert len(loss_curve(long, label="Loss")) < 30_000


def test_a_curve_with_gaps_is_drawn():
    rows = [[0, 0.5, None, 0.1], [1, math.nan, 0.4, 0.2], [2, 0.3, 0.2, 0.3]]
    assert "updates" in texts(td_curve(rows, label="Errors"))


def test_a_curve_of_zeros_is_drawn():
    assert "updates" in texts(td_curve([[0, 0, 0, 0], [1, 0, 0, 0]], label="Errors"))


@pytest.mark.parametrize(("success", "failure"), [([0.5, 0.7], []), ([], [0.5]), ([0.5, 0.5], [0.5])])
def test_a_distribution_may_lack_one_side_or_any_spread(success, failure):
    found = " ".join(texts(q_distribution(success, failure, label="Q")))
    assert ("successful, n=" in found, "failed, n=" in found) == (bool(success), bool(failure))


def test_settings_of_matplotlib_are_left_as_they_were():
    before = dict(matplotlib.rcParams)
    interval_bars(BARS, label="Success")
    assert dict(matplotlib.rcParams) == before


def test_threads_may_draw_at_the_same_time():
    alone = interval_bars(BARS, label="Success")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(interval_bars(BARS, label="Success"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [alone] * 4


def test_identifiers_tell_figures_apart():
    def clipped(figure) -> None:
        figure.subplots().plot([0, 1], [0, 1])

    first, second = (inline_svg(clipped, width=200, height=100, label=label) for label in ("One", "Two"))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert all(ids)
    assert not ids[0] & ids[1]
