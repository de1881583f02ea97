"""``digiq doctor``: what this machine can run; each line is there or says how to mend it."""

from __future__ import annotations

import dataclasses

import click
from rich.console import Console
from rich.markup import escape

from digiq_ray.cli.common import json_line


@click.command(short_help="what this machine can run, and how to mend what is missing")
@click.option(
    "--for",
    "purposes",
    multiple=True,
    default=("demo",),
    show_default=True,
    metavar="PURPOSE",
    help="What must work: demo, chromium, android (phones by id), emulator, gpu, s3, cluster. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Makes the last line of stdout one JSON object.")
@click.pass_context
def doctor(context: click.Context, purposes: tuple[str, ...], as_json: bool) -> None:
    """Looks for Ray, disk, KVM, adb, SDK, AVD, Appium, drivers, Chromium, ports, GPU, vLLM and S3.

    Ends with 1 if something is missing that the purposes of --for need; the rest is told of only.
    """
    from digiq_ray.loops.doctor import PURPOSES, examine, missing

    unknown = [purpose for purpose in purposes if purpose not in PURPOSES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PURPOSES)}", param_hint="--for")
    findings = examine()
    lacking = missing(findings, purposes)
    console = Console(highlight=False)
    for one in findings:
        mark, colour = ("ok", "green") if one.ok else ("missing", "red") if one in lacking else ("absent", "yellow")
        text = f"{one.detail}; {one.mend}" if one.mend else one.detail
        console.print(f"[{colour}]{mark:<9}[/]{one.name:<28}{escape(text)}", soft_wrap=True)
    names = ", ".join(one.name for one in lacking)
    console.print(f"for {', '.join(purposes)}: {f'missing {names}' if lacking else 'all is there'}")
    if as_json:
        report = {
            "ok": not lacking,
            "for": list(purposes),
            "missing": [one.name for one in lacking],
            "checks": [dataclasses.asdict(one) for one in findings],
        }
        click.echo(json_line(report))
    context.exit(1 if lacking else 0)
