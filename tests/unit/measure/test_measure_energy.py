"""Energy by a meter that the test turns, and by processor time where there is none."""

from __future__ import annotations

import pytest

from compressc.measure import WATTS_PER_CORE, measure_energy

#: Where meters begin anew.
END = 1_000_000_000


class Machine:
    """A clock and meters that stand still but for what calls take."""

    def __init__(self, folder):
        self.folder, self.wall, self.cpu, self.microjoules = folder, 0, 0, END - 3_000_000
        self.calls = []

    def add(self, place, name):
        (self.folder / place).mkdir(parents=True)
        (self.folder / place / "name").write_text(f"{name}\n")
        (self.folder / place / "max_energy_range_uj").write_text(f"{END - 1}\n")
        self.turn()

    def turn(self):
        for place in self.folder.glob("*"):
            (place / "energy_uj").write_text(f"{self.microjoules % END}\n")

    def clock(self):
        return self.wall, self.cpu

    def call(self, name, seconds, joules, cores=1):
        def run():
            self.calls.append(name)
            self.wall += int(seconds * 1e9)
            self.cpu += int(seconds * cores * 1e9)
            self.microjoules += int(joules * 1e6)
            self.turn()

        return run


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def energies(machine):
    runs = {"a": machine.call("a", 0.02, 1.5), "b": machine.call("b", 0.5, 0.25, cores=2)}
    return measure_energy(runs, seconds=0.5, clock=machine.clock, meters=machine.folder)


def test_meters_of_packages_are_read_over_their_end(machine):
    """Two packages take the same here; a core's own meter is a part of its package's."""
    machine.add("intel-rapl:0", "package-0")
    machine.add("intel-rapl:1", "package-1")
    machine.add("intel-rapl:0:0", "core")
    machine.add("intel-rapl:2", "psys")
    found = energies(machine)
    assert {name: one.how for name, one in found.items()} == {"a": "measured", "b": "measured"}
    assert found["a"].joules == pytest.approx(3.0)
    assert found["b"].joules == pytest.approx(0.5)
    assert machine.calls.count("a") == 25
    assert machine.calls.count("b") == 5


@pytest.mark.parametrize("meters", ["none", "core alone", "one that nobody may read"])
def test_else_it_is_processor_time(machine, meters):
    if meters == "core alone":
        machine.add("intel-rapl:0:0", "core")
    elif meters == "one that nobody may read":
        machine.add("intel-rapl:0", "package-0")
        machine.add("intel-rapl:1", "package-1")
        (machine.folder / "intel-rapl:1" / "max_energy_range_uj").unlink()
    found = energies(machine)
    assert {one.how for one in found.values()} == {"estimated"}
    assert found["a"].joules == pytest.approx(0.02 * WATTS_PER_CORE)
    assert found["b"].joules == pytest.approx(1.0 * WATTS_PER_CORE)
