"""Figures of the analyses as SVG and PNG; the page draws its own, interactive ones.

In flow an `Analysis`; out flow two files. Every figure says whether the EEG is simulated, and shows
chance and, where there is one, the permutation threshold.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nice_demo.analysis.meaning import over_subjects, percentiles
from nice_demo.analysis.series import ZEROED, Analysis, Series
from nice_demo.analysis.truth import leaderboard
from nice_demo.bundle import Bundle
from nice_demo.calibration import expected_calibration_error, reliability, risk_coverage
from nice_demo.files import complete_file

NAMES = {"nice": "NICE", "nice-sa": "NICE-SA", "nice-ga": "NICE-GA", "ridge": "ridge"}
# Okabe and Ito's colours, told apart with any colour vision; the page has the same.
COLOURS = {"nice": "#0072b2", "nice-sa": "#e69f00", "nice-ga": "#d55e00", "ridge": "#cc79a7"}
GREY = "#666666"
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "legend.frameon": False, "legend.fontsize": 8, "figure.dpi": 100, "savefig.dpi": 160,
    "svg.fonttype": "path", "svg.hashsalt": "nice_demo",  # the same bytes each time
}  # fmt: skip


def draw(analysis: Analysis, bundle: Bundle, folder: Path) -> None:
    """Write FOLDER/NAME.svg and FOLDER/NAME.png.

    Parameters
    ----------
    analysis : Analysis
    bundle : Bundle
        For the electrodes and the gallery.
    folder : Path
    """
    with matplotlib.rc_context(STYLE):
        # A Figure of its own, not pyplot's: that isn't safe among threads and opens windows.
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        _FIGURES[analysis.name](figure, analysis, bundle)
        subjects = analysis.about["subjects"]
        told = [
            "simulated EEG" if analysis.about["simulated"] else "",
            _of_whom(analysis.name, subjects),
            f"{len(bundle.gallery)}-way, {bundle.gallery.protocol} protocol, "
            f"{bundle.repetitions[-1]} repetitions averaged unless said otherwise",
        ]
        figure.suptitle("; ".join(filter(None, told)), fontsize=8, color=GREY)
        for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            with complete_file(folder / f"{analysis.name}.{ending}") as part:
                figure.savefig(part, format=ending, metadata=metadata)


# ---------------------------------------------------------------- pieces


def _of_whom(name: str, subjects: list[str]) -> str:
    """Say whose figures these are and what their intervals are."""
    several = len(subjects) > 1
    if name == "confidence":
        whose = (
            f"trials of {len(subjects)} subjects together" if several else f"subject {subjects[0]}"
        )
        return f"{whose}, 95 % Wilson interval (left), bootstrap over trials (right)"
    if several:
        return f"mean of {len(subjects)} subjects, 95 % t interval"
    interval = {"meaning": "95 % bootstrap or Wilson interval", "truth": "no interval"}
    return f"subject {subjects[0]}, {interval.get(name, '95 % Wilson interval')}"


def _label(series: Series) -> str:
    name = NAMES.get(series.encoder, series.encoder)
    return name if series.how != "retrained" else f"{name}, {series.how}"


def _colour(series: Series) -> str:
    return COLOURS.get(series.encoder, GREY)


def _accuracy(series: Series, top: int = 1):
    return series.accuracy(top, series.subjects[0] if len(series.subjects) == 1 else None)


def _chance(axes: Axes, several: list[Series], top: int = 1) -> None:
    """Draw chance, and the highest of the thresholds."""
    found = [_accuracy(series, top) for series in several]
    axes.axhline(100 * found[0].chance, color=GREY, lw=1, ls=":", label="chance")
    threshold = max(one.threshold for one in found)
    axes.axhline(100 * threshold, color=GREY, lw=1, ls="--", label="threshold, p < 0.05")
    axes.set_ylim(bottom=0)


def _curves(axes: Axes, several: list[Series], title: str, top: int = 1) -> None:
    for series in several:
        found, x = _accuracy(series, top), np.array(series.axes[0].points, float)
        if series.axes[0].unit == "s":
            x = 1000 * x
        style = "--" if series.how == "retrained" else "-"
        axes.plot(x, 100 * found.value, style, color=_colour(series), label=_label(series))
        axes.fill_between(
            x, 100 * found.low, 100 * found.high, color=_colour(series), alpha=0.15, lw=0
        )
    axis = several[0].axes[0]
    axes.set_xlabel(f"{axis.name} ({'ms' if axis.unit == 's' else axis.unit or 'number'})")
    _chance(axes, several, top)
    axes.set(title=title, ylabel=f"top-{top} (%)")


def _dots(axes: Axes, several: list[Series], title: str, top: int = 1) -> None:
    if not several:  # channels of no known region
        axes.axis("off")
        return
    points = several[0].axes[0].points
    for i, series in enumerate(several):
        found = _accuracy(series, top)
        x = np.arange(len(points)) + 0.7 * ((i + 0.5) / len(several) - 0.5)
        reach = 100 * np.array([found.value - found.low, found.high - found.value])
        axes.errorbar(
            x, 100 * found.value, np.nan_to_num(reach), fmt="o" if series.how == ZEROED else "s",
            ms=4, lw=1, color=_colour(series), label=_label(series),
            mfc="white" if series.how == "retrained" else None,
        )  # fmt: skip
    axes.set_xticks(range(len(points)), points, rotation=30 if len(points) > 4 else 0, ha="right")
    _chance(axes, several, top)
    axes.set(title=title, ylabel=f"top-{top} (%)")


def _legend_outside(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))


def _matrix(figure: Figure, axes: Axes, values: np.ndarray, title: str, label: str, **how) -> None:
    image = axes.imshow(values, cmap=how.pop("cmap", "cividis"), **how)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)


def _head(axes: Axes, bundle: Bundle, values: np.ndarray, **how):
    """Draw a scalp map, nose up; return the image."""
    image = bundle.montage.image(values)
    drawn = axes.imshow(image, cmap="cividis", extent=[-1, 1, -1, 1], **how)
    axes.plot(*bundle.montage.flat.T, ".", color="white", ms=2)
    axes.add_patch(Circle((0, 0), 0.99, fill=False, ec=GREY, lw=2))
    axes.plot([-0.12, 0, 0.12], [0.99, 1.13, 0.99], color=GREY, lw=1)
    axes.set_xlim(-1.15, 1.15)
    axes.set_ylim(-1.05, 1.2)
    axes.axis("off")
    return drawn


# ---------------------------------------------------------------- one figure for each analysis


def _time(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, middle, right = figure.subplots(1, 3)
    _curves(left, analysis.of("growing windows"), "EEG from 0 to …")
    _curves(middle, analysis.of("sliding windows"), "a window of 100 ms alone")
    for axes in (left, middle):
        for onset in (200, 400, 600, 800):
            axes.axvline(onset, color="#dddddd", lw=0.8, zorder=0)  # further pictures appear
    _legend_outside(figure, middle)
    both = analysis.of("temporal generalisation")
    if not both:
        right.axis("off")
        return
    times = [1000 * np.array(axis.points) for axis in both[0].axes]
    half = np.diff(times[0][:2]) / 2
    extent = [times[1][0] - half, times[1][-1] + half, times[0][0] - half, times[0][-1] + half]
    extent = [float(end.item()) for end in extent]
    value = 100 * _accuracy(both[0], 5).value
    _matrix(
        figure, right, value, "ridge trained at one time, tested at another", "top-5 (%)",
        origin="lower", extent=extent, vmin=100 * _accuracy(both[0], 5).chance,
    )  # fmt: skip
    right.set(xlabel="tested at (ms)", ylabel="trained at (ms)")


def _space(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1.3, 1])
    _dots(left, analysis.of("without a region"), "without a region")
    _dots(middle, analysis.of("a region alone"), "a region alone")
    _legend_outside(figure, left)
    searchlight = analysis.of("searchlight", "nice", ZEROED) or analysis.of("searchlight")
    if not searchlight:
        right.axis("off")
        return
    found = _accuracy(searchlight[0], 5)
    drawn = _head(right, bundle, 100 * found.value)
    right.set(title=f"an electrode and its neighbours alone\n({_label(searchlight[0])})")
    figure.colorbar(drawn, ax=right, label=f"top-5 (%), chance {100 * found.chance:g}", shrink=0.8)


def _frequency(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, right = figure.subplots(1, 2)
    _dots(left, analysis.of("a band alone"), "a band alone")
    _dots(right, analysis.of("without a band"), "without a band")
    _legend_outside(figure, left)


def _repetitions(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, right = figure.subplots(1, 2)
    several = analysis.of("test repetitions")
    subject = several[0].subjects[0] if len(several[0].subjects) == 1 else None
    for series in several:
        x, value = series.axes[0].points, _accuracy(series).value
        low, high = series.bootstrap(1, subject)
        left.plot(x, 100 * value, "o-", ms=3, color=_colour(series), label=_label(series))
        left.fill_between(x, 100 * low, 100 * high, color=_colour(series), alpha=0.15, lw=0)
    left.set_xscale("log", base=2)
    left.set_xticks(several[0].axes[0].points, several[0].axes[0].points)
    left.minorticks_off()
    _chance(left, several)
    left.set(
        title="test repetitions averaged (bands: bootstrap)", xlabel="repetitions",
        ylabel="top-1 (%)",
    )  # fmt: skip
    if trained := analysis.of("training pictures"):
        _curves(right, trained, "share of the training pictures (ridge)")
    else:
        right.axis("off")
    _legend_outside(figure, left)


def _transfer(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, right = figure.subplots(1, 2)
    if exchanged := analysis.of("encoder of another subject"):
        series = exchanged[0]
        hits = 100 * (series.ranks <= 5).mean(-1)
        _matrix(figure, left, hits, f"{_label(series)} of one subject on another", "top-5 (%)")
        left.set(xlabel="trained on subject", ylabel="tested on subject")
        left.set_xticks(range(len(series.axes[0].points)), series.axes[0].points)
        left.set_yticks(range(len(series.subjects)), series.subjects)
    else:  # each encoder was trained on all other subjects
        left.axis("off")
    if pooled := analysis.of("pooled training"):
        _dots(right, pooled, "trained on …")
        _legend_outside(figure, right)
    else:
        right.axis("off")


def _meaning(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, middle, right = figure.subplots(1, 3)
    about, encoder = analysis.about, bundle.encoders(bundle.subjects[0])[0]
    order = np.array(about["order"])
    embeddings = bundle.gallery.embeddings[order]
    decoded = analysis.arrays[f"decoded {encoder}"].astype(float).mean(0)[np.ix_(order, order)]
    for axes, values, title in (
        (left, embeddings @ embeddings.T, "pictures, by the image model"),
        (middle, decoded, f"the same pictures, decoded ({NAMES.get(encoder, encoder)})"),
    ):
        _matrix(figure, axes, percentiles(values), title, "percentile of all pairs")
        axes.set_xticks([])
        axes.set_yticks([])
    if about["categories"]:
        sizes = np.bincount(about["category"])
        edges = np.cumsum(sizes)
        left.set_yticks(edges - sizes / 2, about["categories"], fontsize=7)
    names = [name.removeprefix("figures ") for name in analysis.arrays if name[:8] == "figures "]
    names = [name for name in names if not name.startswith("by category")]
    names.sort(key=list(NAMES).index)
    for i, name in enumerate(names):
        figures, null = analysis.arrays[f"figures {name}"], analysis.arrays[f"null {name}"]
        found = over_subjects(figures, null)
        if len(figures) == 1:
            found[:, 1:3] = figures[0, :, 1:3]
        y = np.arange(len(found)) + 0.7 * ((i + 0.5) / len(names) - 0.5)
        value, low, high, chance, _, threshold = found.T
        right.errorbar(
            # A percentile interval may lie beside the value; it reaches as far as the value then.
            value, y, xerr=np.maximum([value - low, high - value], 0), fmt="o", ms=4, lw=1,
            color=COLOURS.get(name, GREY), label=NAMES.get(name, name),
        )  # fmt: skip
        right.plot(threshold, y, "|", color=GREY, ms=6)
    right.plot(chance, np.arange(len(chance)), "x", color=GREY, ms=5, label="chance")
    right.plot([], [], "|", color=GREY, ms=6, label="threshold, p < 0.05")
    right.set_yticks(range(len(about["figures"])), [_folded(one) for one in about["figures"]])
    right.invert_yaxis()
    right.set_xlabel("Spearman correlation; share")
    _legend_outside(figure, right)


def _folded(text: str) -> str:
    words = text.split()
    middle = len(words) // 2
    return " ".join(words[:middle]) + "\n" + " ".join(words[middle:])


def _confidence(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    left, middle, right = figure.subplots(1, 3)
    about = analysis.about
    for e, name in enumerate(about["encoders"]):
        colour, label = COLOURS.get(name, GREY), NAMES.get(name, name)
        sure = analysis.arrays["confidence"][:, e].astype(float)  # (subjects, repetitions, trials)
        hits = analysis.arrays["rank"][:, e] == 1
        bins = reliability(sure[:, -1].ravel(), hits[:, -1].ravel())
        value = np.array([[one.confidence, one.accuracy, one.low, one.high] for one in bins]).T
        left.errorbar(
            100 * value[0], 100 * value[1],
            100 * np.array([value[1] - value[2], value[3] - value[1]]),
            fmt="o-", ms=3, lw=1, color=colour, label=label,
        )  # fmt: skip
        curve = risk_coverage(sure[:, -1].ravel(), hits[:, -1].ravel())
        middle.plot(100 * curve.coverage, 100 * curve.risk, color=colour)
        errors = [
            expected_calibration_error(sure[:, r].ravel(), hits[:, r].ravel(), draws=200)
            for r in range(sure.shape[1])
        ]
        value = 100 * np.array([[one.value, one.low, one.high] for one in errors]).T
        right.plot(about["repetitions"], value[0], "o-", ms=3, color=colour)
        right.fill_between(about["repetitions"], *value[1:], color=colour, alpha=0.15, lw=0)
    end = max(left.get_xlim()[1], left.get_ylim()[1])
    left.plot([0, end], [0, end], "--", color=GREY, lw=1, label="as right as it says")
    left.set(title="as right as it says?", xlabel="confidence (%)", ylabel="right (%)")
    chance = 100 * (1 - 1 / about["ways"])
    middle.axhline(chance, color=GREY, lw=1, ls=":")
    left.plot([], [], ":", color=GREY, lw=1, label="chance")
    middle.set(
        title="staying silent when unsure", xlabel="trials answered, the surest first (%)",
        ylabel="wrong among them (%)",
    )  # fmt: skip
    right.set_xscale("log", base=2)
    right.set_xticks(about["repetitions"], about["repetitions"])
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set(
        title="calibration error", xlabel="repetitions", ylabel="expected calibration error (%)"
    )
    _legend_outside(figure, left)


def _truth(figure: Figure, analysis: Analysis, bundle: Bundle) -> None:
    board, true, found, times = figure.subplots(1, 4, width_ratios=[1.7, 1, 1, 1.4])
    about, encoder = analysis.about, analysis.about["encoders"][0]
    own = [row for row in leaderboard(analysis) if row.encoder == encoder]
    rest = [row for row in leaderboard(analysis) if row.encoder != encoder]
    rows = own + [row for row in rest if row.kind == "attention"]
    y = np.arange(len(rows))
    for shift, weights, colour, label in (
        (-0.12, "trained", COLOURS["nice"], "trained"),
        (0.12, "untrained", GREY, "random weights"),
    ):
        some = [getattr(row, weights) for row in rows]
        value = np.array([one.value for one in some])
        reach = np.array([[one.value - one.low, one.high - one.value] for one in some]).T
        board.errorbar(
            value, y + shift, xerr=np.nan_to_num(reach), fmt="o", ms=4, lw=1, color=colour,
            label=label,
        )  # fmt: skip
    board.axvline(0, color=GREY, lw=1, ls=":", label="chance")
    named = [f"{row.kind} ({NAMES.get(row.encoder, row.encoder)})" for row in rows]
    board.set_yticks(y, named)
    board.invert_yaxis()
    board.set(title="which map finds the electrodes?", xlabel="rank correlation with the truth")
    _legend_outside(figure, board)
    best = own[0].kind
    e, k = about["encoders"].index(encoder), about["kinds"].index(best)
    space = about["spaces"].index(about["space of kind"][best])
    found_channels = analysis.arrays["found channels"][:, e, k].mean(0)
    for axes, values, title in (
        (true, analysis.arrays["true channels"][:, space].mean(0), "truth"),
        (found, found_channels, f"found by\n{best}"),
    ):
        _head(axes, bundle, values / values.max(), vmin=0, vmax=1)
        axes.set_title(title)
    times.plot(
        1000 * np.array(about["times"]),
        analysis.arrays["true time course"][:, space].mean(0),
        color=GREY, label="truth",
    )  # fmt: skip
    over_time = [row for row in leaderboard(analysis, "times") if row.encoder == encoder]
    if over_time:
        nearest = max(over_time, key=lambda row: row.trained.value).kind
        course = analysis.arrays["found time course"][:, e, about["kinds"].index(nearest)].mean(0)
        x = 1000 * np.array(about["times"])
        times.plot(x, course / course.max(), color=COLOURS["nice"], label=nearest)
    times.set(title="when", xlabel="time (ms)", ylabel="share of the maximum", ylim=(0, 1.25))
    times.legend(loc="upper right")


_FIGURES: dict[str, Callable[[Figure, Analysis, Bundle], None]] = {
    "time": _time,
    "space": _space,
    "frequency": _frequency,
    "repetitions": _repetitions,
    "meaning": _meaning,
    "confidence": _confidence,
    "truth": _truth,
    "transfer": _transfer,
}
