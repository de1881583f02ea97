"""The frame of the CLI: every failure is one line with its exit code, and help imports nothing heavy."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from digiq_ray import __version__
from digiq_ray.cli.common import config_options, json_line
from digiq_ray.cli.main import COMMANDS, main
from digiq_ray.core.config import Section
from digiq_ray.core.errors import DeadlineExceededError, DigiQError, DiskFullError, StoreError

ROOT = Path(__file__).parents[2]


class Learning(Section):
    gamma: float = 0.95


class Settings(Section):
    seed: int = 0
    directory: Path = Path("runs/test")
    learning: Learning = Learning()


class RemoteError(Exception):
    """What Ray raises for a task that failed: several lines, with the cause as an attribute."""

    def __init__(self, cause: BaseException, traceback_str: str = "") -> None:
        super().__init__("ray::task()\n  File ...\nsomething")
        self.cause = cause
        self.traceback_str = traceback_str


class RemoteStoreError(RemoteError, StoreError):
    """Ray's error is also an instance of its cause's class."""


@click.command()
@click.option("--steps", type=int, default=1)
@config_options(Settings, shortcuts={"--seed": "seed", "--run": "directory"})
def train(config: Settings, steps: int) -> dict[str, object]:
    click.echo(f"trained {steps} steps")
    return {"command": "train", "seed": config.seed, "gamma": config.learning.gamma, "bad": float("nan")}


FAILURES: dict[str, BaseException] = {}


@click.command()
@click.argument("name")
def fail(name: str) -> None:
    raise FAILURES[name]


TABLE = {"train": (f"{__name__}:train", "Trains."), "fail": (f"{__name__}:fail", "Fails.")}


def run(*argv: str) -> int:
    return main(argv, table=TABLE)


@pytest.fixture
def failing(capsys, monkeypatch):
    """Runs a command that raises an error; returns its exit code and what it wrote to stderr."""

    def run_failing(error: BaseException) -> tuple[int, str]:
        monkeypatch.setitem(FAILURES, "it", error)
        code = run("fail", "it")
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return run_failing


def test_a_command_that_ends_well_returns_0(capsys):
    assert run("train", "--steps", "3") == 0
    assert capsys.readouterr().out == "trained 3 steps\n"


def test_the_version_is_that_of_the_package(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"digiq, version {__version__}\n"


def test_help_lists_the_commands_in_the_order_of_the_table(capsys):
    assert run("--help") == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].split()
    assert listed == ["train", "Trains.", "fail", "Fails."]


def test_help_imports_no_command(capsys):
    assert main(["--help"], table={"broken": ("no_such_module:command", "Is not there.")}) == 0
    assert "Is not there." in capsys.readouterr().out


def test_digiq_alone_shows_the_help_and_ends_with_2(capsys):
    assert run() == 2
    assert "Commands:" in capsys.readouterr().err


def test_every_registered_command_can_be_imported():
    assert [name for name in COMMANDS if main([name, "--help"]) != 0] == []


def test_help_needs_neither_torch_nor_ray_nor_pydantic():
    code = (
        "import sys; from digiq_ray.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'ray', 'pydantic', 'numpy', 'transformers', 'yaml'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian"], "no such command trian; did you mean train?"),
        (["zzz"], "no such command zzz; digiq --help lists the commands"),
        (["--hlp"], "no such option --hlp; did you mean --help?"),
        (["train", "--sed", "3"], "no such option --sed; did you mean --seed?"),
        (["train", "--qqqqq"], "no such option --qqqqq; digiq train --help lists the options"),
        (["train", "--steps", "x"], "invalid value for '--steps': 'x' is not a valid integer; see digiq train --help"),
        (["train", "extra"], "got unexpected extra argument (extra); see digiq train --help"),
        (["fail"], "missing argument 'NAME'; see digiq fail --help"),
        (["train", "--config", "none.yaml"], "the configuration file none.yaml does not exist; check the path"),
        (["train", "--set", "learning.gama=1"], "--set: unknown key learning.gama; the nearest is learning.gamma"),
        (["train", "--set", "seed"], "--set seed: the form is --set section.key=value"),
        (["train", "--seed", "x"], "--set: seed is 'x' but should be a valid integer"),
    ],
)
def test_wrong_usage_is_one_line_and_ends_with_2(capsys, argv, line):
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"digiq: {line}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StoreError("no store at runs/a; run digiq collect"), 2, "no store at runs/a; run digiq collect"),
        (DeadlineExceededError("reset of phone 3 took 60 s"), 1, "reset of phone 3 took 60 s"),
        (DigiQError("two\nlines"), 1, "two lines"),
        (DigiQError(), 1, "DigiQError"),
        (RemoteError(StoreError("no store at runs/a")), 2, "no store at runs/a"),
        (RemoteStoreError(StoreError("no store at runs/a")), 2, "no store at runs/a"),
        (RemoteError(RemoteStoreError(DeadlineExceededError("too slow"))), 1, "too slow"),
        (DiskFullError("make room in runs/a"), 2, "make room in runs/a"),
        (RemoteError(DiskFullError("make room in runs/a")), 2, "make room in runs/a"),
        (KeyboardInterrupt(), 130, "interrupted; the same command again continues"),
        (click.Abort(), 130, "interrupted; the same command again continues"),
    ],
)
def test_an_expected_failure_is_its_own_line_with_its_own_code(failing, error, code, line):
    assert failing(error) == (code, f"digiq: {line}\n")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/a/segment"),
        RemoteError(OSError(errno.ENOSPC, "No space left on device", "runs/a/segment")),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(failing, error):
    code, line = failing(error)
    assert code == 2
    assert line.startswith("digiq: no space is left on the disk for runs/a/segment: make room")
    assert line.count("\n") == 1


def test_a_full_disk_that_only_the_remote_traceback_tells_of_is_one_line(failing):
    code, line = failing(RemoteError(RuntimeError("writing"), "OSError: [Errno 28] No space left on device"))
    assert code == 2
    assert line.startswith("digiq: no space is left on the disk: ")


@pytest.mark.parametrize("error", [ValueError("a defect"), RemoteError(ValueError("a defect")), FileNotFoundError("x")])
def test_an_unexpected_error_is_raised_with_its_traceback(failing, error):
    with pytest.raises(type(error)) as caught:
        failing(error)
    assert caught.value is error


def test_a_process_that_meets_an_unexpected_error_shows_its_traceback_and_ends_with_1(tmp_path):
    module = tmp_path / "broken_command.py"
    module.write_text("import click\n@click.command()\ndef command():\n    raise ValueError('a defect')\n")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; from digiq_ray.cli.main import main; "
        "sys.exit(main(['broken'], table={'broken': ('broken_command:command', '')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a defect\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_full_disk_is_one_line_and_ends_with_2(unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "digiq_ray.cli.main", "--help"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("digiq: no space is left")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_ends_the_command_in_silence(unbuffered):
    command = [sys.executable, "-m", "digiq_ray.cli.main", "--help"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1


def test_dry_run_prints_the_resolved_configuration_and_runs_nothing(capsys):
    assert run("train", "--dry-run", "--seed", "3", "--set", "learning.gamma=0.5") == 0
    assert capsys.readouterr().out == "seed: 3\ndirectory: runs/test\nlearning:\n  gamma: 0.5\n"


def test_the_output_of_a_dry_run_is_a_configuration_file(capsys, tmp_path):
    run("train", "--dry-run", "--seed", "3")
    first = capsys.readouterr().out
    file = tmp_path / "run.yaml"
    file.write_text(first)
    assert run("train", "--config", str(file), "--dry-run") == 0
    assert capsys.readouterr().out == first


def test_json_makes_the_report_the_last_line(capsys):
    assert run("train", "--json", "--seed", "3") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "trained 1 steps"
    assert json.loads(last) == {"command": "train", "seed": 3, "gamma": 0.95, "bad": None}


def test_json_with_dry_run_is_the_configuration(capsys):
    assert run("train", "--json", "--dry-run") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"seed": 0, "directory": "runs/test", "learning": {"gamma": 0.95}}


def test_set_wins_over_the_option_of_the_same_key(capsys):
    assert run("train", "--json", "--seed", "3", "--set", "seed=4") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seed"] == 4


def test_an_option_that_sets_a_path_takes_any_text(capsys):
    assert run("train", "--dry-run", "--run", "2024") == 0
    assert "directory: '2024'" in capsys.readouterr().out


def test_the_report_may_hold_numpy_numbers_and_paths():
    numpy = pytest.importorskip("numpy")
    line = json_line({"rate": numpy.float32(0.5), "n": numpy.int64(3), "path": Path("a/b"), "inf": float("inf")})
    assert json.loads(line) == {"rate": 0.5, "n": 3, "path": "a/b", "inf": None}
