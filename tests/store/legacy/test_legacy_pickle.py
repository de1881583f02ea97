"""Reading pickles without unpickling: everything that plain data is written with, and nothing else."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from legacy_files import make_trajectories, save

from digiq_ray.core.errors import InputError
from digiq_ray.store.legacy import machine
from digiq_ray.store.legacy.file import LegacyFile
from digiq_ray.store.legacy.importing import import_trajectories

VALUES = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column_order": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "half": np.array([1.5, -2], np.float16),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "nothing_deep": np.array(2.5),
    "scalar": np.float64(0.25),
    "integer": np.int64(-3),
    "truth": np.bool_(True),
    "text": "käse \U0001f600",
    "numpy_text": np.str_("mug"),
    "bytes": b"\x00\xff",
    "no_bytes": b"",
    "bytearray": bytearray(b"ab"),
    "no_bytearray": bytearray(),
    "big": 2**100,
    "small": -5,
    "float": -1e300,
    "none": None,
    "list": [1, [2, {"a": (1, 2, 3, 4)}], ()],
    "ordered": OrderedDict(a=1, b=2),
}


def read(path: Path) -> list[list[dict[str, object]]]:
    return list(LegacyFile.open(path).trajectories())


def same(one: object, two: object) -> bool:
    if isinstance(two, np.ndarray):
        return (
            isinstance(one, np.ndarray)
            and one.dtype == two.dtype.newbyteorder(one.dtype.byteorder)
            and np.array_equal(one, two)
        )
    if isinstance(two, np.generic):
        two = two.item()
    return bool(one == two)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_kind_of_plain_value_is_read_as_it_was_written(tmp_path, name, protocol):
    path = tmp_path / "file.pt"
    path.write_bytes(pickle.dumps([[{"a": VALUES[name], "b": VALUES[name]}], [{"a": VALUES[name]}]], protocol))
    (first, second) = read(path)
    assert all(same(step[key], VALUES[name]) for step in (*first, *second) for key in step)


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
def test_torchs_containers_old_and_new_are_read(tmp_path, options):
    trajectories = make_trajectories("digiq")
    found = read(save(tmp_path / "file.pt", trajectories, **options))
    assert [[step["observation"] for step in steps] for steps in found] == [
        [step["observation"] for step in steps] for steps in trajectories
    ]
    np.testing.assert_array_equal(found[2][3]["q_rep_out_list"], trajectories[2][3]["q_rep_out_list"])


@pytest.mark.parametrize(
    "lengths", [[1], [1, 1], [1, 0, 1], [0], [0, 0], [3], [3, 1], [1, 3, 0, 2], [1] * 1001, [2] * 2001]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_trajectories_come_out_whole_however_many_and_long_they_are(tmp_path, lengths, protocol):
    trajectories = [[{"n": number, "i": i} for i in range(length)] for number, length in enumerate(lengths)]
    path = tmp_path / "file.pt"
    path.write_bytes(pickle.dumps(trajectories, protocol))
    assert read(path) == trajectories


def test_steps_with_one_key_and_values_that_are_lists_are_not_taken_for_trajectories(tmp_path):
    trajectories = [[{"a": []}], [{"a": [1]}], [{"a": [[]]}, {"a": []}], [{"a": []}]]
    path = tmp_path / "file.pt"
    path.write_bytes(pickle.dumps(trajectories, 2))
    assert read(path) == trajectories


def test_objects_that_are_shared_are_read_wherever_they_are_referred_to(tmp_path):
    shared = np.arange(4, dtype=np.float32)
    text = "".join(["a", "b"])
    step = {"x": shared, "t": text, "l": [text, text]}
    trajectory = [step, step]
    path = tmp_path / "file.pt"
    path.write_bytes(pickle.dumps([trajectory, [{"x": shared, "t": text}], trajectory, trajectory], 2))
    found = read(path)
    assert [len(one) for one in found] == [2, 1, 2, 2]
    assert all(same(one[0]["x"], shared) and one[0]["t"] == text for one in found)


def test_tensors_are_read_as_arrays(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": base,
        "view": base.T[1:],
        "half": base.half(),
        "ids": torch.arange(3),
        "none": torch.zeros(0, 2),
    }
    (step,) = read(save(tmp_path / "file.pt", [[tensors]]))[0]
    assert all(same(step[name], tensor.numpy()) for name, tensor in tensors.items())


def test_a_file_that_is_packed_anew_has_the_same_digest(tmp_path):
    trajectories = make_trajectories("digiq")
    one = LegacyFile.open(save(tmp_path / "one.pt", trajectories))
    two = LegacyFile.open(save(tmp_path / "two.pt", trajectories))
    other = LegacyFile.open(save(tmp_path / "other.pt", trajectories[:1]))
    assert one.digest == two.digest != other.digest


class Evil:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call  # type: ignore[return-value]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"posix\.system"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (subprocess.run, r"(subprocess|commands)\.run"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_with_the_type_named(tmp_path, out, function, name, protocol):
    canary = tmp_path / "canary"
    trajectories = make_trajectories("digiq")
    trajectories[2][-1]["more"] = Evil(
        function, f"open({str(canary)!r}, 'w')" if function is eval else f"touch {canary}"
    )
    path = tmp_path / "file.pt"
    evil = [[{"a": trajectories[2][-1]["more"]}]] if protocol < 2 else trajectories
    path.write_bytes(pickle.dumps(evil, protocol))
    with pytest.raises(InputError, match=name):
        import_trajectories(path, out)
    assert not canary.exists()
    assert not out.exists()


def test_the_canary_of_these_tests_would_sing(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Evil(eval, f"open({str(canary)!r}, 'w')")))
    assert canary.exists()


PICKLES = {
    "reduce with arguments of another kind": (
        b"\x80\x02]](}(X\x01\x00\x00\x00ac_codecs\nencode\nX\x01\x00\x00\x00bX\x05\x00\x00\x00rot13\x86Rue.",
        "_codecs.encode",
    ),
    "array type called": (b"\x80\x02](]}X\x01\x00\x00\x00acnumpy\nndarray\nK\x05\x85Rsae.", "numpy.ndarray"),
    "type of objects": (b"\x80\x02](]}X\x01\x00\x00\x00acnumpy\ndtype\nX\x02\x00\x00\x00O8\x85Rsae.", "numpy.dtype"),
    "bytes as a bomb": (b"\x80\x02](]}X\x01\x00\x00\x00ac__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85Rsae.", "bytes"),
    "name with a dot": (b"\x80\x04](]}\x8c\x01a\x8c\x05numpy\x8c\x0cndarray.dump\x93sae.", "numpy.ndarray.dump"),
    "name that is a number": (b"\x80\x04](]}\x8c\x01a\x8c\x05numpyK\x01\x93sae.", "not a text"),
    "call of what is no function": (b"\x80\x02](]}X\x01\x00\x00\x00aK\x01)Rsae.", "not one of the few functions"),
    "state of a list": (b"\x80\x02](]]}bae.", "sets the state"),
    "new object": (b"\x80\x02](]}X\x01\x00\x00\x00acnumpy\nndarray\n)\x81sae.", "NEWOBJ"),
    "old instance": (b"\x80\x02(ios\nsystem\n.", "INST of os.system"),
    "extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "text opcode": (b"\x80\x02I1\n.", "INT"),
    "no opcode": (b"\x80\x02\xff.", "0xff is no pickle opcode"),
    "protocol": (b"\x80\x06].", "protocol 6"),
    "a dictionary": (b"\x80\x02}.", "list of trajectories"),
    "a number": (b"\x80\x02K\x01.", "list of trajectories"),
    "trajectories that are numbers": (b"\x80\x02](K\x01K\x02e.", "list of trajectories"),
    "steps that are lists": (b"\x80\x02]]]aa.", "list of trajectories"),
    "keys that are numbers": (b"\x80\x02]]}K\x01K\x02saa.", "texts as keys"),
    "unhashable key": (b"\x80\x02]]}]K\x02saa.", "texts as keys"),
    "empty stack": (b"\x80\x020.", "is not a whole|is broken"),
    "memo never written": (b"\x80\x02h\x05.", "memo slot 5 is read before"),
    "memo out of order": (b"\x80\x02]q\x07.", "out of order"),
    "text longer than the file": (b"\x80\x02X\xff\xff\xff\x7fabc.", "2,147,483,647 bytes follow"),
    "bytes longer than any file": (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "bytes follow"),
    "rest after the end": (b"\x80\x02](]e.more", "4 bytes follow the end"),
    "too deep": (b"\x80\x02" + b"(" * 1000 + b".", "levels deep"),
    "storage without a file": (b"\x80\x02](]}X\x01\x00\x00\x00aK\x01Qsae.", "tensor's storage"),
    "half a surrogate": (b"\x80\x02](]}X\x01\x00\x00\x00aX\x03\x00\x00\x00\xed\xa0\x80sae.", "is not a whole"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_crafted_pickle_is_refused_in_one_line(tmp_path, out, name):
    content, line = PICKLES[name]
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=line) as caught:
        import_trajectories(path, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def array_pickle(shape: bytes, raw: bytes) -> bytes:
    """A pickle of one array of float32 whose shape and bytes need not fit."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = (
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    state = b"(K\x01" + shape + kind + b"\x89B" + len(raw).to_bytes(4, "little") + raw + b"tb"
    return b"\x80\x03](]}X\x01\x00\x00\x00a" + made + state + b"sae."


def test_the_crafted_array_is_read_if_it_is_right(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(array_pickle(b"K\x02\x85", b"\x00\x00\x80\x3f" * 2))
    np.testing.assert_array_equal(read(path)[0][0]["a"], np.ones(2, np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        (b"J\xff\xff\xff\x7f\x85", "comes with 8 bytes"),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85", "comes with 8 bytes"),
        (b"J\xfe\xff\xff\xff\x85", "impossible shape"),
        (b"(" + b"K\x01" * 40 + b"K\x02t", "impossible shape"),
        (b"X\x01\x00\x00\x00a\x85", "impossible shape"),
        (b"N", "impossible shape"),
    ],
)
def test_an_array_of_an_absurd_shape_is_refused(tmp_path, shape, line):
    path = tmp_path / "file.pt"
    path.write_bytes(array_pickle(shape, b"\0" * 8))
    with pytest.raises(InputError, match=line):
        read(path)


def test_a_trajectory_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "LARGEST_VALUE", 16 << 20)
    path = tmp_path / "file.pt"
    path.write_bytes(b"\x80\x02](](" + b"N" * (1 << 18) + b"ee.")
    with pytest.raises(InputError, match="one trajectory before byte"):
        read(path)


def test_memory_that_the_memo_keeps_is_charged_too(tmp_path, monkeypatch):
    """Each trajectory is small, but all are referred to at the end and so none can be forgotten."""
    monkeypatch.setattr(machine, "LARGEST_VALUE", 16 << 20)
    block = b"]%s}X\x01\x00\x00\x00aB\x00\x00\x10\x00" + b"\0" * (1 << 20) + b"sa"
    slots = [b"r" + number.to_bytes(4, "little") for number in range(20)]
    again = [b"j" + number.to_bytes(4, "little") for number in range(20)]
    path = tmp_path / "file.pt"
    path.write_bytes(b"\x80\x03](" + b"".join(block % slot for slot in slots) + b"".join(again) + b"e.")
    with pytest.raises(InputError, match="one trajectory before byte"):
        for _ in LegacyFile.open(path).trajectories():
            pass


def zipped(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (zipped(zipfile.ZIP_DEFLATED, a__data_pkl=b"\0" * 100_000), "compressed"),
        (zipped(other=b""), "0 files named data.pkl"),
        (zipped(a__data_pkl=b"", b__data_pkl=b""), "2 files named data.pkl"),
        (zipped(a__data_pkl=b"\x80\x02]."), "holds no step"),
        (
            zipped(
                a__data_pkl=b"\x80\x02](]}X\x01\x00\x00\x00a(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQsae."
            ),
            "has no 'action'",
        ),
        (b"", "not a trajectory file"),
        (b"PK\x03\x04", "cut off or broken"),
        (b"hello world, this is text", "not a trajectory file"),
        (b"\x80", "cut off or broken"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, out, content, line):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=line):
        import_trajectories(path, out)
    assert not out.exists()


def test_a_flipped_bit_in_an_archive_is_found_by_its_checksum(tmp_path, out):
    path = save(tmp_path / "file.pt", make_trajectories("digiq"))
    content = bytearray(path.read_bytes())
    at = content.index(b"Search for mug")
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        import_trajectories(path, out)


@pytest.mark.parametrize("what", ["missing.pt", "."])
def test_a_file_that_is_not_there_or_a_directory_is_one_line(tmp_path, out, what):
    with pytest.raises(InputError, match="cannot be read"):
        import_trajectories(tmp_path / what, out)
    assert not out.exists()


@pytest.mark.parametrize("protocol", [2, 5])
def test_memory_does_not_grow_with_the_file(tmp_path, protocol):
    """48 trajectories of a megabyte, with what pickle remembers of each, in the memory of a few."""
    path = tmp_path / "file.pt"
    trajectories = [[{"task": f"task {n}", "a": np.full(1 << 18, n, np.float32)}] for n in range(48)]
    save(path, trajectories, pickle_protocol=protocol)
    del trajectories
    file = LegacyFile.open(path)
    tracemalloc.start()
    try:
        read_back = [steps[0]["a"][0] for steps in file.trajectories()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read_back == list(range(48))
    assert peak < 12 << 20
