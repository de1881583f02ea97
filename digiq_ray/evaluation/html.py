"""The report as one page of HTML that needs nothing else: no script, no network, images and plots inside.

Whatever the report and the film strips hold is text here: jinja2 escapes it, and the page's content security policy
allows neither scripts nor anything from outside. The page follows the reader's light or dark scheme, fits a phone's
window, and prints.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from digiq_ray.evaluation import sections
from digiq_ray.evaluation.film import CandidateView, FilmStrip, FrameView, strip_pages
from digiq_ray.evaluation.wording import Report

__all__ = ["CandidateView", "FilmStrip", "FrameView", "render_report"]

_TEMPLATES = Environment(
    loader=PackageLoader("digiq_ray.evaluation", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_report(report: Report, strips: Sequence[FilmStrip] = ()) -> str:
    """The page for ``report`` (the dictionary of ``report.json``); what the report lacks, the page leaves out.

    Args:
        report: Figures of a run; see ``sections.py`` for what is read of it.
        strips: Episodes to show, in this order.

    Raises:
        InputError: a screen of a strip is not an image.
    """
    return _TEMPLATES.get_template("report.html.j2").render(
        eyebrow=[f"digiq {report.get('command', 'run')}", *_facts(report)],
        headline=sections.headline(report),
        success=sections.success(report),
        strips=strip_pages(strips),
        timeline=sections.timeline(report),
        critic=sections.critic(report),
        finetune=sections.finetune(report),
        extraction=sections.extraction(report),
        alarms=sections.alarms(report),
        checks=sections.checks(report),
        origin=sections.origin(report),
    )


def _facts(report: Report) -> list[str]:
    facts = (("task_set", "{} tasks"), ("seed", "seed {}"))
    return [words.format(report[key]) for key, words in facts if report.get(key) is not None]
