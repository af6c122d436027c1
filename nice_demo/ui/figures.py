"""Plotly figures of the page."""

import numpy as np

# Left and right margin in pixels; style.css lays the time cursor and the slider over the same.
MARGIN_LEFT, MARGIN_RIGHT = 44, 10
LINES = "rgba(112, 124, 143, 0.3)"
FIELD_POWER = "#747f90"  # visible on white and on black
GRID = "rgba(128, 136, 150, 0.22)"
STEPS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100)  # µV, ends of the vertical axis


def global_field_power(volts: np.ndarray) -> np.ndarray:
    """Compute how strong the field is at each moment: the standard deviation over electrodes.

    Parameters
    ----------
    volts : array of shape (n_channels, n_samples)
        Average reference, V.

    Returns
    -------
    array of shape (n_samples,)
        V.

    References
    ----------
    Lehmann & Skrandies 1980, Electroencephalogr. Clin. Neurophysiol. 48:609–621.
    """
    return volts.std(axis=0)


def _end(largest: float) -> float:
    return next((step for step in STEPS if step >= largest), largest)


def butterfly(volts: np.ndarray, times: np.ndarray, names: list[str]) -> dict:
    """Draw every electrode's evoked response, and the global field power below it.

    Parameters
    ----------
    volts : array of shape (n_channels, n_samples)
        Average reference, V.
    times : array of shape (n_samples,)
        Evenly spaced, s; the picture appears at 0.
    names : list of str
        Of the electrodes.

    Returns
    -------
    dict
        Plotly's ``data`` and ``layout``, in µV and ms, transparent, without title. Plain: a
        `plotly.graph_objects.Figure` of 64 traces takes ten times as long to make and to write.
    """
    # As doubles, of which the shortest decimals are written: 1.23, not 1.2300000190734863.
    microvolts = np.round(volts.astype(float) * 1e6, 2)
    power = np.round(global_field_power(volts).astype(float) * 1e6, 2)
    start, step = float(times[0]) * 1e3, float(times[1] - times[0]) * 1e3
    shared = {"type": "scatter", "mode": "lines", "x0": round(start), "dx": round(step, 4)}
    # Plain lists of numbers with two decimals are shorter than plotly's encoded doubles.
    traces = [
        {
            **shared,
            "y": line.tolist(),
            "name": name,
            "line": {"color": LINES, "width": 1},
            "hovertemplate": "%{x:.0f} ms, %{y:.1f} µV",
        }
        for name, line in zip(names, microvolts, strict=True)
    ]
    traces.append(
        {
            **shared,
            "y": power.tolist(),
            "name": "global field power",
            "yaxis": "y2",
            "line": {"color": FIELD_POWER, "width": 2},
            "fill": "tozeroy",
            "fillcolor": GRID,
            "hovertemplate": "%{x:.0f} ms, %{y:.1f} µV",
        }
    )
    end, power_end = _end(float(np.abs(microvolts).max())), _end(float(power.max()))
    axis = {"zeroline": False, "gridcolor": GRID, "fixedrange": True, "ticklen": 3}
    layout = {
        "margin": {"l": MARGIN_LEFT, "r": MARGIN_RIGHT, "t": 6, "b": 38},
        "height": 184,
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 11, "color": FIELD_POWER, "family": "system-ui, sans-serif"},
        "xaxis": {
            **axis,
            "range": [start, float(times[-1]) * 1e3],
            "tickvals": [*range(0, int(times[-1] * 1e3) + 1, 200)],
            "showgrid": False,
            "anchor": "y2",
            "title": {
                "text": "time after the picture appears (ms)",
                "standoff": 6,
                "font": {"size": 11},
            },
        },
        "yaxis": {
            **axis,
            "range": [-end, end],
            "domain": [0.38, 1],
            "nticks": 5,
            "ticklabeloverflow": "allow",  # or the highest would miss its number
            "title": {"text": "EEG (µV)", "standoff": 2, "font": {"size": 11}},
        },
        "yaxis2": {
            **axis,
            "range": [0, power_end],
            "domain": [0, 0.28],
            "nticks": 2,
            "title": {"text": "GFP (µV)", "standoff": 2, "font": {"size": 11}},
        },
        "shapes": [
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                **{"x0": 0, "x1": 0, "y0": 0, "y1": 1},
                "line": {"color": FIELD_POWER, "width": 1, "dash": "dot"},
            }
        ],
    }
    return {"data": traces, "layout": layout}
