"""The shape of the source: what each file must have, and what the lowest layers must not import."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("digiq_ray", "emulator_workers", "serve")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_there_are_sources_of_every_package():
    assert {file.relative_to(ROOT).parts[0] for file in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_a_module_says_what_it_does(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "the module has code but no docstring"


@pytest.mark.parametrize("file", SOURCES + TESTS, ids=name)
def test_no_file_is_longer_than_900_lines(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 900


def test_names_of_test_files_are_unique():
    names = [file.name for file in TESTS if file.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("package", ["core", "store"])
def test_the_lowest_layers_import_neither_torch_nor_ray(package):
    code = (
        "import importlib, pkgutil, sys\n"
        f"import digiq_ray.{package} as package\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_every_package_has_its_place_in_the_import_rules():
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {module for layer in layers for module in layer.replace("|", " ").replace(":", " ").split()}
    inner = {f"digiq_ray.{path.parent.name}" for path in (ROOT / "digiq_ray").glob("*/__init__.py")}
    assert placed == inner | {"emulator_workers", "serve"}
