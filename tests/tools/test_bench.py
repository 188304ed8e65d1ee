"""Half of each of `make bench`'s targets: what noise cannot break and a regression can."""

import pytest

from tools.bench.speed import MEASURES, new_bench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return new_bench(tmp_path_factory.mktemp("bench"), photos=1600, some=400)


@pytest.mark.parametrize("name", MEASURES)
def test_every_ratio_reaches_half_its_target(bench, name):
    rows = MEASURES[name](bench)
    assert rows
    for row in rows:
        assert row.ratio >= (row.target or 0) / 2, row
