import json

import pytest

from digiq_ray.cli.main import main
from digiq_ray.loops import doctor as examination
from emulator_workers.checks.machine import Finding

TABLE = {"doctor": ("digiq_ray.cli.doctor:doctor", "what this machine can run")}
RAY = Finding("Ray", True, "2.60.0", needed_for=("demo",))
KVM = Finding("KVM", False, "no /dev/kvm", "use bare metal", ("emulator",))


@pytest.fixture(autouse=True)
def findings(monkeypatch):
    monkeypatch.setattr(examination, "examine", lambda: [RAY, KVM])


def doctor(*words: str) -> int:
    return main(["doctor", *words], table=TABLE)


def test_what_a_purpose_does_not_need_is_told_but_not_held_against_the_machine(capsys):
    assert doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "Ray", "2.60.0"]
    assert lines[1].split() == ["absent", "KVM", "no", "/dev/kvm;", "use", "bare", "metal"]
    assert lines[2] == "for demo: all is there"


def test_what_a_purpose_needs_and_lacks_ends_with_one(capsys):
    assert doctor("--for", "demo", "--for", "emulator") == 1
    out = capsys.readouterr().out
    assert "missing  KVM" in out
    assert "for demo, emulator: missing KVM" in out


def test_the_report_as_json(capsys):
    assert doctor("--for", "emulator", "--json") == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["ok"], report["missing"], len(report["checks"])) == (False, ["KVM"], 2)
    assert report["checks"][1]["mend"] == "use bare metal"


def test_an_unknown_purpose_is_refused(capsys):
    assert doctor("--for", "coffee") == 2
    assert "none of demo, chromium" in capsys.readouterr().err
