"""Broken files of every sort end in a typed error of one line, soon, in little memory, with nothing written."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from legacy_files import make_trajectories, save

from digiq_ray.core.errors import DigiQError
from digiq_ray.store.legacy.importing import import_trajectories


def contents() -> list[bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file.pt"
        trajectories = [steps[:2] for steps in make_trajectories("vllm")]
        found = [save(path, trajectories).read_bytes()]
        found.append(save(path, trajectories, _use_new_zipfile_serialization=False).read_bytes())
    return found + [pickle.dumps(trajectories, protocol) for protocol in (2, 4, 5)]


WHOLE = contents()
OPCODES = bytes(
    opcode[0] for opcode in (value for value in vars(pickle).values() if type(value) is bytes and len(value) == 1)
)


def import_or_refuse(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "file.pt", Path(folder) / "out"
        path.write_bytes(content)
        began, refused = time.monotonic(), ""
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here: other tests in this process took more
        before = memory_kb("VmRSS")
        try:
            import_trajectories(path, out)
        except DigiQError as error:
            refused = str(error)
        assert "\n" not in refused
        assert out.exists() != bool(refused)
        assert time.monotonic() - began < 10
    assert memory_kb("VmHWM") - before < 1 << 20


def memory_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(WHOLE), data=st.data())
def test_changed_bytes(which, data):
    content = bytearray(which)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    import_or_refuse(bytes(content))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(WHOLE), data=st.data())
def test_a_stretch_that_is_missing_or_repeated(which, data):
    start = data.draw(st.integers(0, len(which)))
    end = data.draw(st.integers(start, min(len(which), start + 200)))
    times = data.draw(st.sampled_from([0, 2, 5]))
    import_or_refuse(which[:start] + which[start:end] * times + which[end:])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(WHOLE), end=st.integers(0, 30_000))
def test_cut_off(which, end):
    import_or_refuse(which[: end % len(which)])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"\x80\x02", b"\x80\x02](](}", b"PK\x03\x04", b"\x80\x04]"]),
    tail=st.binary(max_size=400),
)
def test_random_bytes(head, tail):
    import_or_refuse(head + tail)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.lists(st.sampled_from(OPCODES), max_size=60))
def test_random_opcodes(tail):
    import_or_refuse(b"\x80\x04](](}" + bytes(tail) + b".")
