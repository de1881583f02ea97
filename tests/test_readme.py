"""What the README tells people to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from digiq_ray.cli.main import COMMANDS, LazyGroup

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SHOWN = re.findall(r"^\s*(?:\$ )?(?:\.venv/bin/)?digiq ([a-z-]+.*)$", README, re.MULTILINE)


def test_the_readme_shows_commands() -> None:
    assert len(SHOWN) >= 3


@pytest.mark.parametrize("words", SHOWN)
def test_a_command_of_the_readme_is_understood(words: str, tmp_path: Path) -> None:
    context = click.Context(LazyGroup(table=COMMANDS), info_name="digiq")
    arguments = words.partition("#")[0].split()
    while isinstance(context.command, click.Group):
        name, command, arguments = context.command.resolve_command(context, arguments)
        assert command is not None
        dry_run = any(parameter.name == "dry_run" for parameter in command.params)
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
        else:
            context = command.make_context(name, [*arguments, *["--dry-run"] * dry_run], parent=context)
    if dry_run:
        context.params["out"] = tmp_path / "run"
        context.command.invoke(context)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
