"""Shared fixtures."""

import pytest
import support


@pytest.fixture(scope="session", params=["float32", "bfloat16", "float16"])
def zoo(request, tmp_path_factory):
    """A base and three models near it, of one type: in memory, and as directories."""
    return Zoo(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The same, in float32 alone."""
    return Zoo("float32", tmp_path_factory.mktemp("small"))


class Zoo:
    def __init__(self, dtype, directory):
        self.dtype, self.directory = dtype, directory
        self.base = support.model(0, dtype)
        self.models = [support.model(i, dtype, self.base) for i in (1, 2, 3)]
        support.save(directory / "base", self.base)
        for i, model in enumerate(self.models):
            support.save(directory / f"model{i}", model)
