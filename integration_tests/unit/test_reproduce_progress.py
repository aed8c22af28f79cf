"""What a reproduction says while it searches: how much time is left."""

from __future__ import annotations

import io

from balenas_plugin.reproduce.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(stream: io.StringIO, now: list[float], *, jobs: int) -> Progress:
    epochs = {
        ("darts", "seed 0"): 10,
        ("darts-2nd", "seed 0"): 10,
        ("darts", "seed 1"): 10,
        ("darts-2nd", "seed 1"): 10,
    }
    done = {**dict.fromkeys(epochs, 0), ("darts", "seed 0"): 4}
    return Progress(epochs, done, jobs=jobs, stream=stream, clock=lambda: now[0])


def test_the_time_that_is_left_counts_each_kind_of_search_by_its_own_epochs() -> None:
    now = [0.0]
    progress = watched(io.StringIO(), now, jobs=2)
    for search in (("darts", "seed 0"), ("darts-2nd", "seed 0")):
        progress.started(search)
    assert progress.seconds_left() is None
    now[0] = 120
    progress.reached(("darts", "seed 0"), 6)  # two epochs of this session: a minute each
    assert progress.seconds_left() == (4 + 10 + 10 + 10) * 60 / 2  # the others are not known better
    progress.reached(("darts-2nd", "seed 0"), 1)  # 120 s an epoch
    assert progress.seconds_left() == (4 * 60 + 9 * 120 + 10 * 60 + 10 * 120) / 2
    now[0] = 360
    progress.ended(("darts", "seed 0"), well=True)
    assert progress.seconds_left() == (9 * 120 + 10 * 60 + 10 * 120) / 2
    progress.started(("darts", "seed 1"))
    progress.ended(("darts", "seed 1"), well=False)  # nothing of it is left
    assert progress.seconds_left() == 10 * 120  # the longest, which cannot be divided


def test_one_long_search_is_not_divided_among_jobs() -> None:
    now = [0.0]
    progress = Progress({("a", "seed 0"): 11}, {("a", "seed 0"): 0}, jobs=4, stream=io.StringIO(), clock=lambda: now[0])
    progress.started(("a", "seed 0"))
    now[0] = 10
    progress.reached(("a", "seed 0"), 1)
    assert progress.seconds_left() == 100


def test_a_file_gets_one_line_a_finished_search_and_a_terminal_a_bar() -> None:
    for stream in (io.StringIO(), Terminal()):
        now = [0.0]
        with watched(stream, now, jobs=1) as progress:
            progress.started(("darts", "seed 0"))
            for epoch in range(5, 11):
                now[0] += 600
                progress.reached(("darts", "seed 0"), epoch)
            progress.ended(("darts", "seed 0"), well=True)
            progress.started(("darts", "seed 1"))
            progress.ended(("darts", "seed 1"), well=False)
        text = stream.getvalue()
        lines = ["searches: darts seed 0 finished, 1 of 4, about 5 h 0 min left"]
        lines.append("searches: darts seed 1 failed, 2 of 4, about 3 h 20 min left")
        if not stream.isatty():
            assert text.splitlines() == lines
        assert all(line in text for line in lines)
    assert "| 10/40 epochs" in text
    assert "about 5 h 50 min left, darts seed 0" in text
