"""Screenshots come from the directory that was given and from nowhere else, to the observation that they show."""

from __future__ import annotations

from pathlib import Path

import pytest
from legacy_files import HORIZON, make_trajectories, make_trajectory

from digiq_ray.core.errors import InputError
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.legacy.images import ImageDirectory
from digiq_ray.store.legacy.report import Findings

PNG = b"\x89PNG\r\n\x1a\n"


def write_images(folder: Path, name: str, count: int) -> Path:
    """Screens ``name_0.png`` to ``name_{count - 1}.png``, each with its own content."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{name}_{number}.png").write_bytes(PNG + bytes([number]))
    return folder


def screens(out: Path) -> list[list[bytes]]:
    return [[step.screen[len(PNG) :] for step in one.steps] for one in EpisodeStore(out / "episodes").episodes()]


@pytest.mark.parametrize("layout", ["digirl", "digiq"])
@pytest.mark.parametrize("inside", ["images/test3", "test3", "."])
def test_each_observation_gets_the_screen_before_its_action(import_list, out, tmp_path, layout, inside):
    folder = tmp_path / "pictures"
    write_images(folder / inside, "1715155211.5", 5)
    write_images(folder / inside, "1715155212.5", HORIZON)
    report = import_list(make_trajectories(layout), images=folder)
    assert report["counts"]["missing_images"] == 0
    assert screens(out) == [[bytes([n]) for n in range(5)], [bytes([n]) for n in range(HORIZON)]]


def test_the_last_screen_may_be_named_by_the_step(import_list, out, tmp_path):
    folder = write_images(tmp_path / "pictures", "1715155211.5", 1)
    (folder / "other.png").write_bytes(PNG + b"last")
    steps = make_trajectory("digiq", length=1, success=True, seed=1)
    steps[0]["next_image_path"] = "<path_to_images>/other.png"
    import_list([steps], images=folder)
    assert screens(out) == [[b"\0", b"last"]]


def test_screens_that_are_missing_are_empty_and_counted(import_list, out, tmp_path):
    folder = write_images(tmp_path / "pictures", "1715155211.5", 3)
    report = import_list([make_trajectory("digiq", length=4, success=True, seed=1)], images=folder)
    assert report["counts"]["missing_images"] == 2
    assert screens(out)[0][3:] == [b"", b""]


def test_without_a_directory_no_screen_is_counted_as_missing(import_list, out):
    assert import_list(make_trajectories("digiq"))["counts"]["missing_images"] == 0
    assert set(screens(out)[0]) == {b""}


def read(folder: Path, image: str | None) -> tuple[bytes, dict[str, int]]:
    findings = Findings()
    return ImageDirectory(folder).read(image, findings), dict(findings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(PNG + b"secret")
    return write_images(tmp_path / "inside", "a", 1)


@pytest.mark.parametrize(
    "image", ["../secret.png", "<path_to_images>/../secret.png", "x/../../secret.png", "..\\secret.png", "a\0_0.png"]
)
def test_a_path_that_leads_out_is_refused(folder, image):
    assert read(folder, image) == (b"", {"refused_images": 1})


def test_an_absolute_path_is_that_of_another_machine(folder, tmp_path):
    assert read(folder, str(tmp_path / "secret.png")) == (b"", {"missing_images": 1})
    assert read(folder, "/home/someone/images/a_0.png") == (PNG + b"\0", {})


@pytest.mark.parametrize("target", ["secret.png", "."])
def test_a_link_that_leads_out_is_refused(folder, tmp_path, target):
    (folder / "link").symlink_to(tmp_path / target)
    image = "link" if target != "." else "link/secret.png"
    assert read(folder, image) == (b"", {"refused_images": 1})


def test_a_link_within_the_directory_is_followed(folder):
    (folder / "link.png").symlink_to(folder / "a_0.png")
    assert read(folder, "link.png") == (PNG + b"\0", {})


def test_what_is_no_picture_is_not_taken_for_one(folder):
    (folder / "text.png").write_bytes(b"hello")
    assert read(folder, "text.png") == (b"", {"broken_images": 1})


@pytest.mark.parametrize("image", [None, "", "/", "x" * 5000, "a/" * 2000, "a_9.png"])
def test_a_path_of_nothing_is_missing(folder, image):
    assert read(folder, image) == (b"", {"missing_images": 1})


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such directory of images"):
        ImageDirectory(tmp_path / "none")
