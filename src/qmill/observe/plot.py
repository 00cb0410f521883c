"""A Gantt chart of jobs: when each job waited, ran, and was processed."""

from __future__ import annotations

import math
import os
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ..jobs.fields import SCHEMA
from ..jobs.job import Job
from ..jobs.totals import STATES
from . import jobs_of
from .charts import import_plotnine, quiet_ggplot
from .frame import frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas
    import plotnine

    from ..job_queue.queue import JobQueue

THEMES = (
    "538",
    "bw",
    "classic",
    "dark",
    "gray",
    "grey",
    "light",
    "matplotlib",
    "minimal",
    "seaborn",
    "xkcd",
)
FACET_SCALES = "fixed", "free", "free_x", "free_y"
MAX_FACETS = 50

# Okabe and Ito's colours, which the colour-blind can distinguish, without their black: greys are
# for time in which a job does not run. More values use viridis, which varies in lightness.
_PALETTE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"
_STATE_COLOURS = {
    "working": "#56B4E9",
    "done": "#0072B2",
    "failed": "#D55E00",
    "died": "#CC79A7",
    "timed out": "#E69F00",
    "cancelled": "#F0E442",
}
_GREYS = "#C8C8C8", "#8A8A8A"  # of waiting, and of the time until processed
_GREYS_ON_DARK = "#A6A6A6", "#DADADA"

_WAITING, _PROCESSING, _RUNNING = "waiting", "until processed", "running"
_TIMES = "submitted", "started", "ended", "processed"
_NOT_VALUES = {field.name for field in SCHEMA if not field.is_group}
_MAX_KEYS = 12  # if there are more values, the legend shows `_SOME_KEYS` of them
_SOME_KEYS = 8
_MAX_LABEL = 28
_OF_CHARTS = "draw", "save", "show"
_HANDWRITTEN = "xkcd", "xkcd Script", "Humor Sans", "Comic Neue", "Comic Sans MS"
_BAR_HEIGHT = 0.8  # as a share of a job's row, if bar_width is 1
_FEW = 6  # bars are lower if there are fewer jobs than this
_DENSE = 0.25
_SHORTEST_S = 1e-3  # of the time axis
_WIDTH_PX = 500
_LABEL_IN = 0.2
_DPI = 120
_WIDTH_IN, _HEIGHT_IN, _MAX_HEIGHT_IN = 8.0, 4.5, 24.0


class Plot:
    """A Gantt chart of jobs, as a plotnine object.

    Each job is a bar: light grey while it waited, in a colour while it ran, dark grey from its end
    until it was processed (its callback had returned). The bar of a job that has not ended goes on
    until now, or until the last moment in the records.

    Args:
        jobs: Jobs, their records as dicts, a frame of them, a `JobQueue`, or the path of a log
            file; see `qmill.frame`.
        color_by: The column that determines the colours of the bars: "qid", "priority", "lane",
            "cancelled", "exitcode", "name", "output", "state", "worker", "function", ..., but no
            times; None is one colour for all.
        facet_by: The column whose values get a panel each, likewise.
        show_legend: Whether to show a legend of the colours.
        bar_width: The height of the bars; with 1 there is a gap between them.
        title: The title above the chart.

    Raises:
        ImportError: pandas or plotnine is not installed: `pip install 'qmill[plot]'`.
        ValueError: There are no jobs, a column is unknown, or a number is out of range.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        jobs: JobQueue | Iterable[Job | Mapping[str, Any]] | str | os.PathLike[str],
        color_by: str | None = "qid",
        facet_by: str | None = "qid",
        show_legend: bool = True,
        bar_width: float = 1,
        title: str | None = None,
    ) -> None:
        import_plotnine()
        given = jobs_of(jobs)
        if not isinstance(given, (str, os.PathLike, Job)) and _is_iterator(given):
            given = list(given)
        self._table = table = frame(given).reset_index(drop=True)
        if table.empty:
            raise ValueError("there are no jobs to plot; JobQueue.collect returns each only once")
        if table["submitted"].isna().any():
            raise ValueError("some jobs have no value for submitted; each one needs it")
        self._now = _now_of(given)
        self._defaults = _Look(color_by, facet_by, bool(show_legend), bar_width, title)
        self._check(self._defaults)

    def __getattr__(self, name: str) -> Any:
        hint = "; the chart that build() returns has it" if name in _OF_CHARTS else ""
        raise AttributeError(f"a Plot has no {name!r}{hint}", name=name, obj=self)

    def build(
        self,
        color_by: str | None = ...,  # type: ignore[assignment]
        facet_by: str | None = ...,  # type: ignore[assignment]
        facet_scale: str = "free_y",
        show_legend: bool = ...,  # type: ignore[assignment]
        bar_width: float = ...,  # type: ignore[assignment]
        title: str | None = ...,  # type: ignore[assignment]
        color_pal: Sequence[str] | Mapping[Any, str] | None = None,
        theme: str = "bw",
    ) -> plotnine.ggplot:
        """Make the chart. Arguments that are not given have the values of `Plot`.

        Args:
            color_by: As for `Plot`.
            facet_by: As for `Plot`.
            facet_scale: "free_y": each panel has rows for its own jobs only, and all panels share a
                time axis. "free": each panel also has a time axis of its own. "fixed", "free_x":
                each panel has a row for every job number.
            show_legend: As for `Plot`.
            bar_width: As for `Plot`.
            title: As for `Plot`.
            color_pal: Colours of matplotlib for the values of `color_by`, in their order; or a dict
                from values to colours. None chooses colours that the colour-blind can distinguish.
            theme: "538", "bw", "classic", "dark", "gray", "grey", "light", "matplotlib",
                "minimal", "seaborn" or "xkcd".

        Returns:
            A `plotnine.ggplot`: `.save("gantt.png")` writes it, a notebook displays it, and other
            elements of plotnine can be added to it.

        Raises:
            ValueError: A column, scale, theme or colour is unknown, or there are too few colours.
            TypeError: An argument has the wrong type.
        """
        given: Any = _Look(color_by, facet_by, show_legend, bar_width, title)._asdict()
        changes = {name: value for name, value in given.items() if value is not ...}
        look = self._defaults._replace(**changes)
        self._check(look)
        _check_choice("facet_scale", facet_scale, FACET_SCALES)
        _check_choice("theme", theme, THEMES)
        rows = _rows_of(self._table, look.facet_by, facet_scale)
        return _chart(self._table, rows, look, color_pal, facet_scale, theme, self._now)

    def _check(self, look: _Look) -> None:
        columns = [name for name in self._table.columns if name not in _NOT_VALUES]
        for argument in ("color_by", "facet_by"):
            if (column := getattr(look, argument)) is not None:
                _check_choice(argument, column, columns)
        width = look.bar_width
        if isinstance(width, bool) or not isinstance(width, (int, float)):
            raise TypeError(f"bar_width must be a number, not {type(width).__name__} {width!r}")
        if not 0 < width < math.inf:
            raise ValueError(f"bar_width must be more than 0; got {width!r}")


class _Look(NamedTuple):
    color_by: str | None
    facet_by: str | None
    show_legend: bool
    bar_width: float
    title: str | None


class _Rows(NamedTuple):
    """The places of the jobs: the row of each, from the top, and the panel of each."""

    row: pandas.Series
    panel: pandas.Series | None
    num_panels: int
    num_rows: float  # of the fullest panel
    id_of: dict[int, int] | None  # the id of the job in a row; None if ids are row numbers


def _is_iterator(jobs: Any) -> bool:
    return hasattr(jobs, "__next__")


def _now_of(jobs: Any) -> Any:
    """Return the present date and time if some jobs have not ended, else None."""
    if isinstance(jobs, (str, os.PathLike)) or not isinstance(jobs, (list, tuple)):
        return None
    going = [job for job in jobs if isinstance(job, Job) and not job.done()]
    return going[0]._owner.wall_time(monotonic()) if going else None


def _check_choice(argument: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        told = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{argument} must be one of {told}; got {value!r}")


# -- positions ---------------------------------------------------------------------------------


def _labels_of(column: pandas.Series) -> tuple[pandas.Series, list[str], list[Any]]:
    """Number the values of a column in order; return the numbers, and the texts and values."""
    values = [None if _is_missing(value) else value for value in column]
    by_text = {_text(value): value for value in values}
    ranks = {state: rank for rank, state in enumerate(STATES)} if column.name == "state" else {}
    try:
        order = sorted(
            by_text, key=lambda text: (by_text[text] is None, ranks.get(text, by_text[text]))
        )
    except (TypeError, ValueError):
        order = sorted(by_text, key=lambda text: (by_text[text] is None, text))
    number_of = {text: number for number, text in enumerate(order)}
    numbers = [number_of[_text(value)] for value in values]
    return (
        type(column)(numbers, index=column.index),
        [_cut(text) for text in order],
        [by_text[text] for text in order],
    )


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
    return text.replace("$", r"\$")  # no formulas


def _rows_of(table: pandas.DataFrame, facet_by: str | None, facet_scale: str) -> _Rows:
    panel, num_panels = None, 1
    if facet_by is not None:
        panel, labels, _ = _labels_of(table[facet_by])
        num_panels = len(labels)
        if num_panels > MAX_FACETS:
            raise ValueError(
                f"facet_by={facet_by!r} has {num_panels} values, but a chart has room for "
                f"{MAX_FACETS} panels; choose another column, or None"
            )
        names = [f"{facet_by}: {label}" for label in labels]
        panel = panel.astype("category").cat.rename_categories(_made_unique(names))
        if num_panels == 1 and facet_by == "qid":
            panel = None
    if facet_scale in ("fixed", "free_x"):
        num_rows = float(table["id"].max() - table["id"].min() + 1)
        return _Rows(table["id"], panel, num_panels, num_rows, None)
    # The ids of one queue give the order; with several queues, each has ids from 1.
    keys = table[["submitted", "id"]].assign(panel=0 if panel is None else panel.cat.codes)
    order = ["panel", "id"] if table["qid"].nunique() <= 1 else ["panel", "submitted", "id"]
    index = keys.sort_values(order, kind="stable").index
    row = type(table["id"])(range(1, len(table) + 1), index=index).reindex(table.index)
    num_rows = float(keys["panel"].value_counts().max())
    return _Rows(row, panel, num_panels, num_rows, dict(zip(row, table["id"], strict=True)))


def _made_unique(names: list[str]) -> list[str]:
    """Make names different that were cut to the same text."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[i] = f"{name} ({seen[name]})"
    return names


def _bars_of(table: pandas.DataFrame, now: Any) -> dict[str, tuple[pandas.Series, pandas.Series]]:
    """Return the begin and end of each job's three bars, in seconds; NaN if it has no such bar."""
    start = table["submitted"].min()
    moments = table.loc[:, list(_TIMES)].apply(lambda column: (column - start).dt.total_seconds())
    latest = max(float(moments.max().max()), _SHORTEST_S)
    if now is not None:
        latest = max(latest, (now - start).total_seconds())
    submitted, started, ended, processed = (moments[name] for name in _TIMES)
    is_settled = ended.notna() | processed.notna()
    ended = ended.where(ended.notna(), processed)
    ran_until = ended.where(is_settled, latest).where(started.notna())
    least = latest / _WIDTH_PX  # so that the shortest job is visible
    gave_up = ended.where(is_settled, latest).clip(lower=submitted + least)
    return {
        _WAITING: (submitted, started.where(started.notna(), gave_up)),
        _PROCESSING: (ended.where(started.notna()), processed),
        _RUNNING: (started, ran_until.clip(lower=started + least)),
    }


# -- appearance --------------------------------------------------------------------------------


def _chart(
    table: pandas.DataFrame,
    rows: _Rows,
    look: _Look,
    color_pal: Any,
    facet_scale: str,
    theme: str,
    now: Any,
) -> plotnine.ggplot:
    gg = import_plotnine()
    bars = _bars_of(table, now)
    has_run = bars[_RUNNING][0].notna()
    keys, labels, colours = _colours_of(table[has_run], look.color_by, color_pal)
    greys = _GREYS_ON_DARK if theme == "dark" else _GREYS
    chart = quiet_ggplot()(
        mapping=gg.aes(xmin="begin", xmax="end", ymin="bottom", ymax="top", fill="key")
    )
    height = _bar_height(rows, look.bar_width)
    for phase, (begin, end) in bars.items():
        data = _rectangles(begin, end, rows, height)
        data["key"] = keys.reindex(data.index) if phase == _RUNNING else phase
        if not data.empty:
            chart = chart + gg.geom_rect(data)
    chart = (
        chart
        + _fill_scale(gg, look, labels, colours, greys)
        + gg.scale_x_continuous(expand=(0.01, 0))
        + gg.expand_limits(x=[0, _SHORTEST_S])
        + _row_scale(gg, rows)
        + gg.labs(x="seconds since the first submission", y="job", title=look.title)
        + getattr(gg, f"theme_{theme}")()
        + _adjustments(gg, rows.num_panels, look.show_legend, theme)
    )
    if rows.panel is not None:
        chart = chart + gg.facet_grid(rows="panel", scales=facet_scale)
    return chart


def _rectangles(
    begin: pandas.Series, end: pandas.Series, rows: _Rows, height: float
) -> pandas.DataFrame:
    """Return a table of the rectangles of one kind of bar, for the jobs that have it."""
    data = begin.to_frame("begin").assign(end=end)
    if rows.panel is not None:
        data["panel"] = rows.panel
    data = data[(end > begin) & begin.notna()]
    middle = -rows.row.reindex(data.index)
    return data.assign(bottom=middle - height / 2, top=middle + height / 2)


def _bar_height(rows: _Rows, bar_width: float) -> float:
    """Return the height of a bar in rows; if rows are less than a few pixels, bars fill them."""
    rows_per_px = rows.num_rows / (_panel_in(rows.num_panels) * _DPI)
    if rows_per_px > _DENSE:
        return max(bar_width, rows_per_px) * 1.05
    return _BAR_HEIGHT * bar_width * min(1.0, (rows.num_rows + 1) / _FEW)


def _colours_of(
    table: pandas.DataFrame, color_by: str | None, color_pal: Any
) -> tuple[pandas.Series, list[str], list[str]]:
    """Return the key of each job's colour, and the labels and colours of all keys."""
    if color_by is None:
        keys = type(table["id"])("0", index=table.index)
        labels, values = ["running"], ["running"]
    else:
        numbers, labels, values = _labels_of(table[color_by])
        keys = numbers.astype(str)
    if color_pal is not None:
        return keys, labels, _given_colours(color_by, color_pal, labels, values)
    if color_by == "state":
        return keys, labels, [_STATE_COLOURS.get(value, _PALETTE[-1]) for value in values]
    if len(labels) <= len(_PALETTE):
        return keys, labels, list(_PALETTE[: len(labels)])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps["viridis"]
    return keys, labels, [to_hex(shades(0.93 * i / (len(labels) - 1))) for i in range(len(labels))]


def _given_colours(
    color_by: str | None, color_pal: Any, labels: list[str], values: list[Any]
) -> list[str]:
    from matplotlib.colors import is_color_like

    if hasattr(color_pal, "keys"):
        missing = [value for value in values if value not in color_pal]
        if missing:
            raise ValueError(f"color_pal has no colour for {color_by} {missing[0]!r}")
        colours = [color_pal[value] for value in values]
    elif isinstance(color_pal, str) or not hasattr(color_pal, "__iter__"):
        raise TypeError(
            f"color_pal must be a list of colours or a dict, not {type(color_pal).__name__} "
            f"{color_pal!r}"
        )
    else:
        colours = list(color_pal)[: len(labels)]
        if len(colours) < len(labels):
            raise ValueError(
                f"color_pal has {len(colours)} colours, but color_by={color_by!r} has "
                f"{len(labels)} values; give as many colours"
            )
    for colour in colours:
        if not is_color_like(colour):
            raise ValueError(f"color_pal: {colour!r} is not a colour of matplotlib")
    return colours


def _fill_scale(
    gg: Any, look: _Look, labels: list[str], colours: list[str], greys: Sequence[str]
) -> Any:
    keys = [str(number) for number in range(len(labels))]
    colour_of = dict(zip(keys, colours, strict=True))
    colour_of |= dict(zip((_WAITING, _PROCESSING), greys, strict=True))
    title, told = look.color_by or "", keys
    if len(keys) > _MAX_KEYS:
        step = (len(keys) - 1) / (_SOME_KEYS - 1)
        told = [keys[round(i * step)] for i in range(_SOME_KEYS)]
        title = f"{title} ({_SOME_KEYS} of {len(keys)})"
    label_of = dict(zip(keys, labels, strict=True))
    breaks = [*told, _WAITING, _PROCESSING]
    return gg.scale_fill_manual(
        name=title,
        values=colour_of,
        limits=list(colour_of),
        breaks=breaks,
        labels=[label_of.get(key, key) for key in breaks],
        guide="legend" if look.show_legend else None,
    )


def _row_scale(gg: Any, rows: _Rows) -> Any:
    most = max(2, min(12, int(_panel_in(rows.num_panels) / _LABEL_IN)))
    first, last = int(rows.row.min()), int(rows.row.max())

    def breaks(limits: Any) -> list[float]:
        low, high = sorted(-limit for limit in limits)
        low, high = max(first, math.ceil(low)), min(last, math.floor(high))
        step = _round_step((high - low) / most)
        shown = range(low, high + 1)
        chosen = [row for row in shown if id_in(row) % step == 0]
        if not 2 <= len(chosen) <= most + 1:
            chosen = list(shown[::step])
        return [-float(row) for row in chosen] or [-float(low)]

    def id_in(row: int) -> int:
        return row if rows.id_of is None else rows.id_of[row]

    def labels(places: Any) -> list[str]:
        return [str(id_in(round(-place))) for place in places]

    return gg.scale_y_continuous(breaks=breaks, labels=labels, expand=(0, 0.2))


def _round_step(least: float) -> int:
    """Return the first of 1, 2, 5, 10, ... that is not less than `least`."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= least:
                return digit * power
        power *= 10


def _installed(fonts: Sequence[str]) -> str:
    """Return the first installed font; matplotlib would log a line about each missing one."""
    from matplotlib.font_manager import get_font_names

    return next((font for font in fonts if font in get_font_names()), "sans-serif")


def _height_in(num_panels: int) -> float:
    return min(_MAX_HEIGHT_IN, max(_HEIGHT_IN, num_panels + 1.0))


def _panel_in(num_panels: int) -> float:
    return (_height_in(num_panels) - 0.8) / num_panels - 0.1


def _adjustments(gg: Any, num_panels: int, show_legend: bool, theme: str) -> Any:
    changes: dict[str, Any] = {
        "figure_size": (_WIDTH_IN, _height_in(num_panels)),
        "dpi": _DPI,
        "panel_grid_major_y": gg.element_blank(),
        "panel_grid_minor": gg.element_blank(),
        "legend_position": "right" if show_legend else "none",
        "strip_text_y": gg.element_text(angle=0),
    }
    if theme == "xkcd":
        changes["text"] = gg.element_text(family=_installed(_HANDWRITTEN))
    return gg.theme(**changes)
