from hypothesis import given
from hypothesis import strategies as st

from emulator_workers.capacity import in_words, lacking, why_waiting


def test_amounts_in_words():
    assert in_words({"CPU": 0.5, "android": 1.0, "GPU": 0.0}) == "0.5 cpu, 1 android"
    assert in_words({"CPU": 0}) == "nothing"


def test_a_resource_that_no_node_has_is_named_with_the_flag_that_adds_it():
    said = why_waiting(3, takes={"CPU": 0.0, "android": 1.0}, total={"CPU": 8.0}, free={"CPU": 8.0})
    assert said == (
        "3 workers wait for 1 android each, but no node offers it: "
        "add a node started with ray start --resources '{\"android\": 1}'"
    )


def test_a_resource_that_is_used_up_is_named_with_what_is_there():
    said = why_waiting(1, takes={"android": 1.0}, total={"android": 4.0}, free={"android": 0.0})
    assert said == (
        "1 worker waits for 1 android each: the cluster has 4 and 0 free; "
        "add nodes with android, or ask for fewer workers"
    )


def test_processors_are_added_by_their_own_flag():
    assert "ray start --num-cpus" in why_waiting(1, takes={"CPU": 4.0}, total={"CPU": 2.0}, free={"CPU": 2.0})


def test_workers_that_only_load_lack_nothing():
    said = why_waiting(2, takes={"CPU": 1.0}, total={"CPU": 2.0}, free={"CPU": 2.0})
    assert "take their time to load" in said


@given(
    takes=st.dictionaries(st.sampled_from(["CPU", "android", "kvm"]), st.floats(0, 4)),
    free=st.dictionaries(st.sampled_from(["CPU", "android", "kvm"]), st.floats(0, 4)),
)
def test_only_what_is_short_is_lacking(takes, free):
    found = set(lacking(takes, {}, free))
    assert found == {name for name, amount in takes.items() if amount > free.get(name, 0.0)}
