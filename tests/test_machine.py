"""What spatia asks of the system."""

import numpy as np

from spatia.machine import release_pages

MB = 1 << 20


def resident_mb():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile:")) / 1024


def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, 64 * MB, dtype=np.uint8)
    values.tofile(tmp_path / "bytes")
    for mapped in (
        np.memmap(tmp_path / "bytes", np.uint8, mode="r"),
        np.asarray(np.memmap(tmp_path / "bytes", np.uint16, mode="r", offset=2)),
    ):
        before = resident_mb()
        total = int(mapped.sum(dtype=np.int64))
        assert resident_mb() > before + 50
        release_pages(mapped)
        assert resident_mb() < before + 10
        assert int(mapped.sum(dtype=np.int64)) == total


def test_other_arrays_stay_as_they_are():
    values = np.arange(10)
    release_pages(values)
    release_pages(values[2:])
    assert values.tolist() == list(range(10))
