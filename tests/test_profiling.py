"""Where a stage's seconds and bytes go: parts within parts are not counted twice, and --profile says them."""

import pytest

from cmon import profiling
from cmon.profiling import Profile, duration, size_text


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to move on."""
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def spent(profile):
    return {name: (part.elapsed_s, part.times) for name, part in profile.parts.items()}


def test_a_part_within_another_pauses_it(clock):
    profile = Profile()
    clock(100)
    with profile.part("outer"):
        clock(1)
        with profile.part("inner"):
            clock(10)
            with profile.part("outer"):
                clock(5)
        clock(2)
    clock(100)
    with profile.part("inner"):
        clock(20)
    assert spent(profile) == {"outer": (8, 2), "inner": (30, 2)}


def test_what_comes_one_by_one_is_counted_as_it_comes(clock):
    profile = Profile()

    def made():
        for number in range(3):
            clock(2)
            yield number
        clock(1)

    seen = []
    for number in profile.each("made", made()):
        clock(7)
        seen.append(number)
    assert seen == [0, 1, 2]
    assert spent(profile) == {"made": (7, 4)}  # the last time, nothing came


def test_an_error_ends_the_part_it_comes_from(clock):
    profile = Profile()
    work = profile.timed("work", lambda: clock(3) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work()
    clock(50)
    with profile.part("rest"):
        clock(1)
    assert spent(profile) == {"work": (3, 1), "rest": (1, 1)}


def test_timed_functions_take_and_return_what_they_did(clock):
    add = Profile().timed("sum", lambda one, other=0: one + other)
    assert add(1, other=2) == 3


def test_written_bytes_are_counted(clock, tmp_path):
    profile = Profile()
    for size in (10, 25):
        with profile.writing(tmp_path / "file"):
            (tmp_path / "file").write_bytes(bytes(size))
    assert profile.parts["writing files"].size_bytes == 35


def test_the_table_has_the_largest_part_first_and_what_is_in_no_part(clock):
    profile = Profile()
    for name, seconds in (("small", 1), ("large", 6)):
        with profile.part(name) as part:
            clock(seconds)
    part.size_bytes = 2_500_000
    rows = [line.split() for line in profile.lines(10.0, 512.4)]
    assert rows[1:] == [
        ["large", "6.00", "60%", "1", "2.5", "MB"],
        ["small", "1.00", "10%", "1"],
        ["all", "else", "3.00", "30%"],
        ["in", "all", "10.00", "peak", "memory", "512", "MiB"],
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, ""),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (250e6, "250 MB"),
        (1e9, "1.0 GB"),
        (4e15, "4000 TB"),
    ],
)
def test_bytes_are_said_in_powers_of_a_thousand(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")])
def test_seconds_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text


STAGES = {
    "activations": ("forward passes", "images", "decoding images", "encoding", "reading weights", "writing files"),
    "dissect": ("scores", "reading files", "writing files"),
    "embed": ("reading files", "projection", "writing files"),
    "report": ("reading files", "figure categories", "writing files"),
}


def test_every_stage_says_where_its_time_went_if_asked(study):
    result = study.cmon("run", "--profile")
    assert result.code == 0
    for stage, parts in STAGES.items():
        _, _, after = result.err.partition(f"\n{stage}: ")
        table = after.partition("peak memory")[0].splitlines()[2:]
        names = [line[: line.index(".")].rstrip("0123456789").strip() for line in table]
        assert set(parts) <= set(names), (stage, names)
        *spent, total = (float(line[line.index(".") - 5 :].split()[0]) for line in table)
        assert sum(spent) == pytest.approx(total, abs=0.1)


def test_nobody_is_told_who_did_not_ask(study):
    assert "share" not in study.cmon("activations").err
