import math
import re
from html.parser import HTMLParser

import pytest

from digiq_ray.evaluation.html import FilmStrip, FrameView, render_report

VOID = {"meta", "img", "br", "link", "input"}
HEADINGS = {
    "policies": "Success",
    "stages": "Where the time went",
    "finetune": "Stage 1",
    "checks": "Checks:",
}
EVIL = "<script>alert(1)</script> & \"'><img src=x onerror=y>"


class Page(HTMLParser):
    """Tags with their attributes, the text outside of styles, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def strip(make_screen) -> FilmStrip:
    return FilmStrip("Before", "set an alarm for 6", "time limit", False, [FrameView(make_screen(), "home")])


@pytest.fixture(scope="module")
def html(report_of_a_run, strip) -> str:
    return render_report(report_of_a_run, [strip])


@pytest.fixture
def page(html) -> Page:
    return Page(html)


def test_every_tag_is_closed(page):
    assert page.open == []


def test_nothing_is_loaded_from_outside(page):
    loading = ("src", "href", "xlink:href", "data", "action", "poster", "srcset")
    links = [attrs[name] or "" for _, attrs in page.tags for name in loading if name in attrs]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)


def test_styles_load_nothing(html):
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_a_policy_forbids_scripts_and_anything_from_outside(page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules


def test_there_is_no_script(page):
    assert not page.all("script")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_a_task_with_html_is_shown_and_not_run(full_report, make_screen):
    strip = FilmStrip(EVIL, EVIL, EVIL, True, [FrameView(make_screen(), EVIL), FrameView(make_screen(), "")])
    found = Page(render_report(full_report, [strip]))
    assert found.text.count(EVIL) >= 4
    assert not found.all("script")
    assert not [image for image in found.all("img") if image["src"] == "x"]


def test_names_in_the_report_with_html_are_shown_and_not_run(full_report):
    full_report["policies"][EVIL] = full_report["policies"]["digi_q"]
    full_report["policies"]["digi_q"]["by_kind"][EVIL] = full_report["policies"]["digi_q"]["relearned"]
    full_report["stages"][0] |= {"name": EVIL, "meaning": EVIL}
    full_report["checks"][0] |= {"name": EVIL, "detail": EVIL}
    full_report["extraction"]["items"][EVIL] = 3
    full_report |= {"task_set": EVIL, "config_hash": EVIL, "versions": {EVIL: EVIL}, "command": EVIL}
    found = Page(render_report(full_report))
    assert found.text.lower().count(EVIL.lower()) >= 9
    assert not found.all("script")
    assert not found.all("img")


def test_identifiers_are_unique(page):
    found = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert found
    assert len(set(found)) == len(found)


def test_references_inside_the_page_have_a_target(html, page):
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    wanted = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert wanted
    assert {first or second for first, second in wanted} <= targets


@pytest.mark.parametrize("report", [{}, {"command": "evaluate", "policies": {}, "stages": [], "critic": {}}])
def test_an_empty_report_still_tells_how_to_run_again(report):
    found = Page(render_report(report))
    assert f"digiq {report.get('command', 'run')} --config config.yaml" in found.words
    assert not found.all("figure")


@pytest.mark.parametrize(("key", "heading"), HEADINGS.items())
def test_a_missing_section_is_left_out(full_report, page, key, heading):
    assert heading in page.words
    del full_report[key]
    assert heading not in Page(render_report(full_report)).words


@pytest.mark.parametrize("key", ["ranking", "critic", "candidates", "extraction", "seconds", "versions", "seed"])
def test_any_part_may_be_missing(full_report, key):
    del full_report[key]
    words = Page(render_report(full_report)).words
    assert "Success rose from 31% to 65%" in words
    assert "None" not in words


def test_parts_may_be_null(full_report):
    words = Page(render_report(dict.fromkeys(full_report) | {"policies": full_report["policies"]})).words
    assert "Success rose from 31% to 65%" in words


def test_figures_that_are_not_numbers_are_dashes(full_report):
    full_report["policies"]["behaviour"] |= {"success_rate": None, "successes": 0, "n": 0, "ci95": None}
    full_report["critic"]["td_error"] = math.nan
    full_report["critic"]["curve"][3][1] = None
    full_report["critic"]["q_success"][0] = math.nan
    words = Page(render_report(full_report)).words
    assert "nan" not in words.lower()
    assert "–" in words


def test_the_headline_states_a_clear_gain(page):
    assert "Success rose from 31% to 65%" in page.words
    assert "+34" in page.words


@pytest.mark.parametrize(
    ("successes", "title"), [(70, "No clear change of success: from 31% to 35%"), (20, "Success fell from 31% to 10%")]
)
def test_the_headline_claims_no_more_than_the_interval(full_report, successes, title):
    full_report["policies"]["digi_q"] |= {"successes": successes, "success_rate": successes / 200}
    assert title in Page(render_report(full_report)).words


def test_the_headline_of_one_policy_is_its_result(full_report):
    report = {"command": "evaluate", "policies": {"filtered_bc": full_report["policies"]["filtered_bc"]}}
    assert "Filtered BC: 45% of the tasks done" in Page(render_report(report)).words


def test_the_table_shows_each_policy_with_interval_and_tally(page):
    table = page.words[page.words.index("Policy Sampled") : page.words.index("Rate, its 95% interval")]
    order = [table.index(label) for label in ("Behaviour policy", "Filtered BC", "Random candidate", "Digi-Q")]
    assert order == sorted(order)
    assert "31%25–38%62/200" in table


def test_device_errors_are_mentioned(page):
    assert "4 episodes ended in a device error" in page.words


def test_time_bars_follow_each_other(page):
    bars = [(float(rect["x"]), float(rect["width"])) for rect in page.all("rect") if rect.get("height") == "10"]
    assert bars == [(0.0, 25.0), (25.0, 0.0), (25.0, 75.0)]
    assert "done before" in page.words


def test_the_sensitivity_is_explained(page):
    assert "0.42 times its variance over states (0.0121 against 0.0288)" in page.words


def test_the_checks_say_how_many_passed(page):
    assert "1 of 2 passed" in page.words
    assert "✗ failed the critic ranks" in page.words


def test_the_same_report_gives_the_same_page(html, full_report, strip):
    assert render_report(full_report, [strip]) == html


def test_colours_are_those_of_the_page_in_light_and_dark(html):
    styles = html[html.index("<style>") : html.index("</style>")]
    used = set(re.findall(r"var\(--([a-z]+)", html))
    light, dark = styles.split("prefers-color-scheme: dark", 1)
    for half in (light, dark):
        assert used - {"tone"} <= set(re.findall(r"--([a-z]+):", half))


def test_the_page_stays_small_whatever_the_screens(full_report, make_screen):
    frames = [FrameView(make_screen(288, 576, noise=True), "home")] * 24
    html = render_report(full_report, [FilmStrip("Before", "task", "time limit", False, frames)])
    assert html.count("data:image/jpeg") == 24
    assert len(html) < 3_000_000


def test_alarms_have_a_section_with_cause_and_change(full_report):
    full_report["alarms"] = [
        {"name": "loss_is_zero", "stage": "finetune", "value": 0.0, "limit": 0.0, "cause": EVIL, "change": "look"}
    ]
    page = Page(render_report(full_report))
    assert "Alarms: 1 in training" in page.words
    assert "! finetune loss is zero (0, limit 0)" in page.words
    assert "To change: look" in page.words
    assert not page.all("script")


def test_no_alarms_are_said_and_reports_from_before_say_nothing(full_report):
    assert "Alarms" not in Page(render_report(full_report)).words
    full_report["alarms"] = []
    assert "Alarms: none" in Page(render_report(full_report)).words


def test_the_table_of_policies_says_how_far_each_moved_and_with_what_weight(page):
    assert "Actions KL Weight" in page.words
    assert "6.2 0.44 1.00" in page.words  # Digi-Q: length, KL, weight
    assert "6.2 – –" in page.words  # the behaviour policy was not trained


def test_an_older_report_has_no_columns_of_training(full_report):
    del full_report["extraction"]["kl"], full_report["extraction"]["mean_weight"]
    assert "Actions KL" not in Page(render_report(full_report)).words


def test_the_novelty_of_held_out_states_is_told(page, full_report, make_screen):
    assert "Novelty of held-out states" in page.words
    assert "4% of the held-out states lie farther" in page.words
    del full_report["ranking"]["novelty"]
    frame = FrameView(make_screen(), "home", q=0.5, v=0.25, novelty=0.972)
    found = Page(render_report(full_report, [FilmStrip("Before", "open maps", "success", True, [frame])])).words
    assert "Novelty of held-out states" not in found
    assert "Q 0.50 · V 0.25 · novelty 97%" in found
