"""The parts that charts share: plotnine, and the type of a chart."""

from __future__ import annotations

import functools
from typing import Any

from . import missing_extra


def import_plotnine() -> Any:
    """Return the module plotnine.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import plotnine
    except ImportError as error:
        raise missing_extra("a plot of jobs", "plot", error) from None
    return plotnine


@functools.cache
def quiet_ggplot() -> Any:
    """Return the type of charts."""

    class Chart(import_plotnine().ggplot):  # type: ignore[misc]
        """A plotnine.ggplot whose `save` prints no warning about the file."""

        def save(self, *args: Any, verbose: bool = False, **kwargs: Any) -> None:
            super().save(*args, verbose=verbose, **kwargs)

    return Chart
