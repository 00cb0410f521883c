"""`qmill.Plot`: what the chart shows of which records, its pictures, and what it refuses."""

from __future__ import annotations

import struct
import threading

import pandas
import plotnine
import pytest
from matplotlib import pyplot

import qmill
from qmill.observe import plot as plot_module

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)
from .support import hide, record, staircase

GREYS = plot_module._GREYS


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


def drawn(chart):
    """Return the rectangles as (panel, row from the top, colour, begin, end), all rounded."""
    chart = chart + plotnine.theme()  # a copy: to draw changes it
    bars = []
    figure = chart.draw()
    try:
        for panel, axes in enumerate(figure.axes):
            for collection in axes.collections:
                for path, colour in zip(
                    collection.get_paths(), collection.get_facecolors(), strict=True
                ):
                    (left, bottom), (right, top) = path.vertices.min(0), path.vertices.max(0)
                    code = "#" + "".join(f"{round(255 * part):02X}" for part in colour[:3])
                    row = round(-(bottom + top) / 2)
                    bars.append((panel, row, code, round(left, 3), round(right, 3)))
    finally:
        pyplot.close(figure)
    return bars


def legend_of(chart):
    (scale,) = [s for s in chart.scales if "fill" in s.aesthetics]
    return scale.name, list(scale.labels), scale.guide


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def running(bars):
    return [bar for bar in bars if bar[2] not in GREYS]


# --- what is drawn


def test_a_job_is_grey_while_it_waits_coloured_while_it_runs_and_grey_until_processed():
    chart = qmill.Plot([record(1, 0.0, 1.0, 3.0, 3.5)]).build()
    assert sorted(drawn(chart), key=lambda bar: bar[3]) == [
        (0, 1, GREYS[0], 0.0, 1.0),
        (0, 1, "#0072B2", 1.0, 3.0),
        (0, 1, GREYS[1], 3.0, 3.5),
    ]
    assert legend_of(chart)[:2] == ("qid", ["q", "waiting", "until processed"])


def test_the_first_job_is_on_top_and_the_axis_is_labelled():
    chart = qmill.Plot(staircase(4), title="Stairs").build()
    assert [bar[1] for bar in running(drawn(chart))] == [1, 2, 3, 4]
    assert chart.labels.x == "seconds since the first submission"
    assert (chart.labels.y, chart.labels.title) == ("job", "Stairs")


def test_what_has_not_ended_goes_on_to_the_last_moment_of_the_records():
    records = [
        record(1, 0.0, 1.0, 5.0, 6.0),
        record(2, 0.0, 2.0, state="working"),
        record(3, 1.0, state="waiting"),
    ]
    bars = set(drawn(qmill.Plot(records).build()))
    assert {(0, 2, "#0072B2", 2.0, 6.0), (0, 3, GREYS[0], 1.0, 6.0)} <= bars


def test_jobs_that_never_began_only_waited():
    records = [record(n, 0.0, None, 1.0 * n, 1.0 * n, state="cancelled") for n in (1, 2)]
    chart = qmill.Plot(records).build(color_by="state")
    assert drawn(chart) == [(0, 1, GREYS[0], 0.0, 1.0), (0, 2, GREYS[0], 0.0, 2.0)]
    assert legend_of(chart)[1] == ["waiting", "until processed"]


def test_a_job_that_was_over_at_once_is_still_there():
    assert len(drawn(qmill.Plot([record(1, 0.0, None, 0.0, 0.0)]).build())) == 1
    assert len(running(drawn(qmill.Plot([record(1, 0.0, 0.0, 0.0, 0.0)]).build()))) == 1


def test_jobs_that_are_going_on_run_to_now():
    started, gate = threading.Event(), threading.Event()
    with qmill.JobQueue(1, engine="thread") as jobs:
        going = jobs.put(lambda: (started.set(), gate.wait()))
        waiting = jobs.put(abs, 1)
        started.wait()
        try:
            bars = drawn(qmill.Plot([going, waiting]).build())
        finally:
            gate.set()
    assert len(running(bars)) == 1
    assert [bar[1:3] for bar in bars if bar[1] == 2] == [(2, GREYS[0])]


@pytest.mark.parametrize(
    ("color_by", "labels"),
    [
        ("lane", ["a", "b", "none"]),
        ("exitcode", ["0", "1"]),
        ("cancelled", ["False"]),
        ("priority", ["2.5", "100"]),
        ("name", ["1", "2", "x y"]),
        ("output", ["None", "none"]),
        ("state", ["done", "failed"]),
        (None, ["running"]),
    ],
)
def test_bars_are_coloured_by_any_column(color_by, labels):
    records = [
        record(1, 0, 1, 2, 2, lane="b", priority=2.5),
        record(2, 0, 1, 2, 2, lane="a", exitcode=1, state="failed"),
        record(3, 0, 1, 2, 2, name="x\ny", output="None"),
    ]
    chart = qmill.Plot(records, color_by=color_by).build()
    assert legend_of(chart)[1] == [*labels, "waiting", "until processed"]


def test_failures_have_colours_of_their_own():
    records = [*staircase(3, state="failed", exitcode=1)]
    bars = running(drawn(qmill.Plot(records, color_by="state").build()))
    assert {bar[2] for bar in bars} == {"#D55E00"}


def test_many_values_have_a_short_legend():
    chart = qmill.Plot([record(n, 0, 1, 2, 2, lane=n) for n in range(100)], color_by="lane").build()
    title, labels, _ = legend_of(chart)
    assert title == "lane (8 of 100)"
    assert (len(labels), labels[0], labels[7]) == (10, "0", "99")
    assert len({bar[2] for bar in running(drawn(chart))}) == 100


def test_long_and_strange_values_are_short_labels():
    chart = qmill.Plot([record(1, 0, 1, 2, 2, lane="$x$ " + "long " * 50)], color_by="lane").build()
    label = legend_of(chart)[1][0]
    assert len(label) < 35
    assert label.startswith(r"\$x\$ long")


def test_colours_may_be_chosen():
    records = [record(n, 0, n, n + 1, n + 1, lane=n % 2) for n in range(1, 5)]
    plot = qmill.Plot(records, color_by="lane")
    for palette in (["red", "blue", "green"], {1: "blue", 0: "red"}):
        bars = running(drawn(plot.build(color_pal=palette)))
        assert [bar[2] for bar in bars] == ["#0000FF", "#FF0000"] * 2


# --- panels


def test_several_queues_have_panels_on_one_axis_of_time():
    records = [record(1, 0, 1, 2, 2, qid="a"), record(1, 5, 6, 7, 7, qid="b")]
    bars = running(drawn(qmill.Plot(records).build()))
    assert [(bar[0], *bar[3:]) for bar in bars] == [(0, 1.0, 2.0), (1, 6.0, 7.0)]
    assert qmill.Plot(records[:1]).build().facet.__class__.__name__ == "facet_null"


def test_each_panel_has_rows_for_its_own_jobs():
    records = [record(n, 0, n, n + 1, n + 1, lane=n % 2) for n in range(1, 7)]
    bars = running(drawn(qmill.Plot(records).build(facet_by="lane")))
    assert [bar[:2] for bar in bars if bar[0] == 0] == [(0, 1), (0, 2), (0, 3)]
    assert [bar[:2] for bar in bars if bar[0] == 1] == [(1, 4), (1, 5), (1, 6)]
    fixed = running(drawn(qmill.Plot(records).build(facet_by="lane", facet_scale="fixed")))
    assert sorted(bar[1] for bar in fixed if bar[0] == 1) == [1, 3, 5]


def test_what_is_given_to_build_wins_for_that_chart_only():
    plot = qmill.Plot(staircase(2), color_by="state", title="one", show_legend=True)
    chart = plot.build(color_by="name", title="two", show_legend=False)
    assert (legend_of(chart)[0], legend_of(chart)[2], chart.labels.title) == (
        "name",
        None,
        "two",
    )
    chart = plot.build(title=None)
    assert (legend_of(chart)[0], legend_of(chart)[2]) == ("state", "legend")
    assert getattr(chart.labels, "title", None) is None


# --- files


@pytest.mark.parametrize("theme", plot_module.THEMES)
def test_every_theme_is_saved_without_a_warning(theme, tmp_path, caplog):
    path = tmp_path / "gantt.png"
    records = [record(n, 0, n, n + 1, n + 1.5, lane=f"lane {n % 3}") for n in range(20)]
    qmill.Plot(records, color_by="lane").build(theme=theme, facet_by="lane").save(path)
    width, height = png_size(path)
    assert width > 600
    assert height > 400
    assert caplog.records == []


def test_a_chart_of_real_jobs_and_of_their_log_are_the_same(tmp_path):
    log = tmp_path / "jobs.csv"
    with qmill.JobQueue(2, engine="thread", log_file=log) as jobs:
        for number in range(10):
            jobs.put(abs, number, lane=number % 3)
    done = sorted(jobs.collect(), key=lambda job: job._processed)
    of_jobs, of_log = (qmill.Plot(what).build(facet_by="lane") for what in (done, str(log)))
    assert sorted(drawn(of_log)) == sorted(drawn(of_jobs))


def test_an_iterator_of_jobs_and_a_frame_are_taken():
    records = staircase(3)
    expected = drawn(qmill.Plot(records).build())
    assert drawn(qmill.Plot(iter(records)).build()) == expected
    table = qmill.frame(records)
    assert drawn(qmill.Plot(table).build()) == expected
    assert len(drawn(qmill.Plot(pandas.concat([table, table])).build())) == 2 * len(expected)


def test_it_can_be_added_to(tmp_path):
    chart = qmill.Plot(staircase(3)).build() + plotnine.labs(title="mine")
    chart.save(tmp_path / "gantt.svg", width=4, height=3)
    assert "<svg" in (tmp_path / "gantt.svg").read_text()


def test_20_000_jobs_are_a_picture_of_few_artists(tmp_path):
    records = [
        record(n, n * 1e-4, 1 + n * 1e-3, 1 + n * 1e-3 + 0.05, 2 + n * 1e-3, lane=n % 7)
        for n in range(20_000)
    ]
    path = tmp_path / "gantt.png"
    chart = qmill.Plot(records, color_by="lane").build()
    chart.save(path)
    assert png_size(path)[0] > 600
    assert len(chart.layers) <= 4  # each is drawn as one collection


# --- what is refused


@pytest.mark.parametrize("argument", ["color_by", "facet_by"])
@pytest.mark.parametrize("value", ["colour", "started", 3])
def test_an_unknown_column_is_told_with_those_that_there_are(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be one of 'qid', .*'output'.*; got"):
        qmill.Plot(staircase(2), **{argument: value})
    with pytest.raises(ValueError, match=f"{argument} must be one of"):
        qmill.Plot(staircase(2)).build(**{argument: value})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"theme": "void"}, ValueError, "theme must be one of '538', 'bw', "),
        ({"facet_scale": "x"}, ValueError, "facet_scale must be one of 'fixed', 'free'"),
        ({"bar_width": 0}, ValueError, "bar_width must be more than 0"),
        ({"bar_width": "1"}, TypeError, "bar_width must be a number"),
        ({"color_pal": "red"}, TypeError, "color_pal must be a list of colours or a dict"),
        ({"color_pal": ["red"]}, ValueError, "has 1 colours, but color_by='name' has 60 values"),
        ({"color_pal": {1: "red"}}, ValueError, "color_pal has no colour for name 2"),
        ({"color_pal": ["reddish"] * 60}, ValueError, "'reddish' is not a colour"),
        ({"facet_by": "name"}, ValueError, "has 60 values, but a chart has room for 50 panels"),
    ],
)
def test_what_build_cannot_do_is_told(arguments, error, text):
    plot = qmill.Plot(staircase(60), color_by="name")
    with pytest.raises(error, match=text):
        plot.build(**arguments)


def test_records_without_jobs_or_moments_are_refused():
    with pytest.raises(ValueError, match="there are no jobs to plot"):
        qmill.Plot([])
    with pytest.raises(ValueError, match="some jobs have no value for submitted"):
        qmill.Plot([{"id": 1}])


def test_a_path_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        qmill.Plot(staircase(2)).build().save(tmp_path / "none" / "gantt.png")


def test_without_plotnine_the_error_has_the_command(monkeypatch):
    hide(monkeypatch, "plotnine")
    with pytest.raises(ImportError, match=r"needs plotnine.*: pip install 'qmill\[plot\]'"):
        qmill.Plot(staircase(2))
