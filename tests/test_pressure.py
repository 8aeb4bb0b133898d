"""How much others want the processors, and what they take, from what Linux counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from projections.pressure import OthersUse, Pressure

LINES = """some avg10={average:.2f} avg60=0.00 avg300=0.00 total={total}
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""


class Counted:
    """The kernel's file, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "cpu"
        self.now = 100.0
        self.pressure = Pressure(self.file, lambda: self.now)

    def share(self, after_s: float, average: float, total: int) -> float:
        self.now += after_s
        self.file.write_text(LINES.format(average=average, total=total))
        return self.pressure.share()


def test_what_was_waited_since_the_last_look(tmp_path: Path) -> None:
    """First the system's own average counts, then the time since the last look; a look that comes
    at once finds what the last one found, and one that comes late the average again."""
    counted = Counted(tmp_path)
    assert counted.share(0, 30.0, 5_000_000) == pytest.approx(0.3)
    assert counted.share(1, 30.0, 5_900_000) == pytest.approx(0.9)
    assert counted.share(0.01, 30.0, 5_900_000) == pytest.approx(0.9)
    assert counted.share(1.99, 30.0, 5_900_000) == pytest.approx(0.0)
    assert counted.share(60, 20.0, 60_000_000) == pytest.approx(0.2)


def test_what_others_took_since_the_last_look(tmp_path: Path) -> None:
    """What is nice, idle or waits for a disk is not counted; without a look of late it is nothing,
    and a look that comes at once finds what the last one found."""
    file, now = tmp_path / "stat", 100.0
    use = OthersUse(file, lambda: now)

    def share(after_s: float, *ticks: int) -> float:
        nonlocal now
        now += after_s
        file.write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2 3 4\n")
        return use.share()

    # User, nice, system, idle, waiting, two kinds of interrupts, stolen, and guests' part of user.
    assert share(0, 100, 100, 100, 100, 100, 100, 100, 100, 70) == 0.0
    assert share(0.5, 130, 140, 110, 105, 105, 104, 103, 103, 99) == pytest.approx(0.5)
    assert share(0.1, 999, 140, 110, 105, 105, 104, 103, 103, 99) == pytest.approx(0.5)
    assert share(0.4, 130, 240, 110, 105, 105, 104, 103, 103, 99) == 0.0
    assert share(60, 900, 240, 110, 105, 105, 104, 103, 103, 99) == 0.0


@pytest.mark.parametrize("measure", [Pressure, OthersUse])
@pytest.mark.parametrize(
    "text",
    [None, "", "some avg10=x total=1\n", "nothing\n", "cpu  x 1 2 3 4 5\n", "cpu  1 2\n"],
)
def test_a_kernel_that_does_not_count(
    tmp_path: Path, measure: type[Pressure | OthersUse], text: str | None
) -> None:
    """Nobody is taken for waiting, or for busy, where it is not known."""
    file = tmp_path / "counted"
    if text is not None:
        file.write_text(text)
    assert measure(file).share() == 0.0
