"""How the tests run: hypothesis without surprises, and what needs a GPU only where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# what is tested is compiled anew; the tests of what is kept on disk name a folder
os.environ["ATTNCC_CACHE_DIR"] = ""

# two loaded cores make any deadline a coin toss; fixed seeds make a red run reproducible
settings.register_profile(
    "test", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "nightly", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A loaded machine makes threads wait for one another."""
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `gpu` on a machine without one."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting and not _gpu():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()
