"""What a matplotlib figure shows, as numbers: the `chart` field of a result.

One axes gives its chart; several give a `superchart` of them. A figure that cannot be read gives {}. Kinds: line, scatter,
bar, pie, box_and_whisker, and unknown (title and labels only).
"""

import re

from .values import NotJSON, to_json

_UNIT = re.compile(r"[(\[]([^)\]]*)[)\]]")
# Points of one chart, over which it is given up: the picture is still there.
MAX_POINTS = 100_000


def chart_of_figure(figure):
    try:
        chart = _figure(figure)
        return {} if chart is None else to_json(chart)
    except Exception:
        return {}


def _figure(figure):
    # A colour bar is an axes of its own to matplotlib and a legend to everybody else.
    axes = [ax for ax in figure.axes if not hasattr(ax, "_colorbar")]
    charts = [chart for chart in map(_axes, axes) if chart is not None]
    if not charts:
        return None
    if len(charts) == 1:
        return charts[0]
    title = getattr(figure, "_suptitle", None)
    return {"type": "superchart", "title": _text(title.get_text() if title is not None else None), "elements": charts}


def _axes(ax):
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer
    from matplotlib.patches import Wedge

    boxes = getattr(ax, "_coppice_boxes", None)
    bars = [container for container in ax.containers if isinstance(container, BarContainer)]
    wedges = [patch for patch in ax.patches if isinstance(patch, Wedge)]
    scatters = [item for item in ax.collections if isinstance(item, PathCollection)]
    lines = list(ax.lines)
    if boxes:
        return _box_chart(ax, boxes)
    if wedges:
        return _pie_chart(ax, wedges)
    if bars:
        return _bar_chart(ax, bars)
    if scatters and not lines:
        return _point_chart(ax, "scatter", scatters)
    if lines and not scatters:
        return _point_chart(ax, "line", lines)
    if not ax.has_data() and not ax.get_title():
        return None
    return {"type": "unknown", **_labels(ax), "elements": []}


def _text(text):
    return text if text else None


def _unit(label):
    match = _UNIT.search(label or "")
    return match.group(1) if match else None


def _labels(ax):
    x_label, y_label = _text(ax.get_xlabel()), _text(ax.get_ylabel())
    return {
        "title": _text(ax.get_title()),
        "x_label": x_label,
        "y_label": y_label,
        "x_unit": _unit(x_label),
        "y_unit": _unit(y_label),
    }


def _scale(axis):
    converter = getattr(axis, "converter", None)
    if converter is None and hasattr(axis, "get_converter"):
        converter = axis.get_converter()
    name = type(converter).__name__
    if "Date" in name or "Timestamp" in name or "Period" in name:
        return "datetime"
    if "Category" in name:
        return "categorical"
    return axis.get_scale()


def _value(axis, scale, value):
    """A coordinate as the reader of the chart knows it: a date, a category, or the number."""
    if isinstance(value, str):
        return value
    if scale == "datetime" and not hasattr(value, "isoformat"):
        return _moment(axis, value)
    if scale == "categorical":
        units = getattr(axis, "units", None)
        for name, place in getattr(units, "_mapping", {}).items():
            if place == value:
                return name
    return to_json(value)


def _moment(axis, value):
    """A date in ISO 8601 that is no datetime: of numpy, a period of pandas, or a number on the axis."""
    import numpy

    if isinstance(value, numpy.datetime64):
        return str(value)
    # pandas draws series of even dates on an axis of periods, and numbers there count those.
    frequency = getattr(axis.axes, "freq", None)
    if frequency is not None and not hasattr(value, "to_timestamp"):
        import pandas

        value = pandas.Period(ordinal=int(value), freq=frequency)
    if hasattr(value, "to_timestamp"):
        # A week is named by its last day.
        weekly = value.freqstr.startswith("W")
        return (value.to_timestamp(how="end").normalize() if weekly else value.to_timestamp()).isoformat()
    from matplotlib.dates import num2date

    return num2date(float(value)).replace(tzinfo=None).isoformat()


def _ticks(axis, scale):
    ticks = [_value(axis, "datetime" if scale == "datetime" else "linear", tick) for tick in axis.get_ticklocs()]
    return ticks, [label.get_text() for label in axis.get_ticklabels()]


def _point_chart(ax, kind, artists):
    x_scale, y_scale = _scale(ax.xaxis), _scale(ax.yaxis)
    elements = []
    budget = MAX_POINTS
    for number, artist in enumerate(artists, start=1):
        if kind == "line":
            xs, ys = list(artist.get_xdata(orig=True)), list(artist.get_ydata(orig=True))
        else:
            offsets = artist.get_offsets()
            xs, ys = [float(x) for x in offsets[:, 0]], [float(y) for y in offsets[:, 1]]
        budget -= len(xs)
        if budget < 0:
            raise NotJSON("too many points")
        label = str(artist.get_label())
        if not label or label.startswith("_"):
            label = f"{'Line' if kind == 'line' else 'Scatter'} {number}"
        points = [[_value(ax.xaxis, x_scale, x), _value(ax.yaxis, y_scale, y)] for x, y in zip(xs, ys)]
        elements.append({"label": label, "points": points})
    x_ticks, x_tick_labels = _ticks(ax.xaxis, x_scale)
    y_ticks, y_tick_labels = _ticks(ax.yaxis, y_scale)
    return {
        "type": kind,
        **_labels(ax),
        "x_ticks": x_ticks,
        "x_tick_labels": x_tick_labels,
        "x_scale": x_scale,
        "y_ticks": y_ticks,
        "y_tick_labels": y_tick_labels,
        "y_scale": y_scale,
        "elements": elements,
    }


def _swapped(labels):
    return {
        **labels,
        "x_label": labels["y_label"],
        "y_label": labels["x_label"],
        "x_unit": labels["y_unit"],
        "y_unit": labels["x_unit"],
    }


def _tick_names(axis):
    return [(float(place), label.get_text()) for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels())]


def _nearest_name(names, place, reach):
    """The text of the tick that stands at `place`, give or take `reach`."""
    near = [(abs(tick - place), text) for tick, text in names if text and abs(tick - place) <= reach]
    return min(near)[1] if near else None


def _bar_chart(ax, containers):
    horizontal = any(container.orientation == "horizontal" for container in containers)
    axis = ax.yaxis if horizontal else ax.xaxis
    names = _tick_names(axis)
    scale = _scale(axis)
    # Bars of several groups stand beside their tick, so each reaches as far as half the distance between ticks.
    places = sorted(tick for tick, _ in names)
    gaps = [b - a for a, b in zip(places, places[1:]) if b > a]
    categories = scale == "categorical" or any(text and not _is_number(text) for _, text in names)
    reach = min(gaps, default=1.0) / 2 if categories else 1e-9
    elements = []
    for number, container in enumerate(containers, start=1):
        group = str(container.get_label())
        if not group or group.startswith("_"):
            group = f"Group {number}"
        for bar in container.patches:
            start, size = (bar.get_y(), bar.get_height()) if horizontal else (bar.get_x(), bar.get_width())
            middle = float(start + size / 2)
            label = _nearest_name(names, middle, reach)
            if label is None or (scale == "datetime"):
                label = str(_value(axis, scale, middle)) if scale == "datetime" else f"{middle:g}"
            value = bar.get_width() if horizontal else bar.get_height()
            elements.append({"label": label, "group": group, "value": to_json(value)})
    if len(elements) > MAX_POINTS:
        raise NotJSON("too many bars")
    labels = _labels(ax)
    return {"type": "bar", **(_swapped(labels) if horizontal else labels), "elements": elements}


def _is_number(text):
    try:
        float(text.replace("\N{MINUS SIGN}", "-"))
        return True
    except ValueError:
        return False


def _pie_chart(ax, wedges):
    elements = [
        {
            "label": _pie_label(wedge),
            "angle": to_json(abs(wedge.theta2 - wedge.theta1)),
            "radius": to_json(wedge.r),
        }
        for wedge in wedges
    ]
    return {"type": "pie", "title": _text(ax.get_title()), "elements": elements}


def _pie_label(wedge):
    label = str(wedge.get_label())
    return "" if label.startswith("_") else label


def _box_chart(ax, boxes):
    stats_places = [place for place, _ in boxes]
    # A horizontal box plot has its boxes side by side along y, where the ticks of the boxes are then.
    x_names, y_names = _tick_names(ax.xaxis), _tick_names(ax.yaxis)
    horizontal = _fits(y_names, boxes) and not _fits(x_names, boxes)
    names = y_names if horizontal else x_names
    elements = []
    for place, stats in zip(stats_places, (stats for _, stats in boxes)):
        label = _nearest_name(names, float(place), 0.25) or str(stats.get("label", place))
        elements.append(
            {
                "label": label,
                "min": to_json(stats["whislo"]),
                "first_quartile": to_json(stats["q1"]),
                "median": to_json(stats["med"]),
                "third_quartile": to_json(stats["q3"]),
                "max": to_json(stats["whishi"]),
                "outliers": to_json(list(stats.get("fliers", []))),
            }
        )
    labels = _labels(ax)
    return {"type": "box_and_whisker", **(_swapped(labels) if horizontal else labels), "elements": elements}


def _fits(names, boxes):
    """Whether an axis has exactly the ticks that a box plot sets."""
    return sorted(tick for tick, _ in names) == sorted(float(place) for place, _ in boxes)
