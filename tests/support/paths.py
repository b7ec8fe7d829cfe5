"""The ways that PLD is computed in, each a context to compute it within: the table of numbers runs over all of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from pldistill import kernels


@contextmanager
def always_logarithmic() -> Iterator[None]:
    """The plain way of compiled graphs and devices, which look at no values."""
    with pytest.MonkeyPatch.context() as patch, kernels.switched_off():
        patch.setattr("pldistill.losses._plackett_luce._LINEAR_RANGE", -1.0)
        yield


PATHS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "packed": nullcontext,
    "plain, chosen by range": kernels.switched_off,
    "plain, always logarithmic": always_logarithmic,
}
