"""Which map to trust: how well maps find the simulated sources."""

from html import escape

import numpy as np

from nice_demo.errors import InputError
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import caption, name_of, number, says


def maps_table(evidence: Evidence, choice: Choice) -> Drawn:
    """Return the leaderboard of attribution methods: how well they find the simulated sources."""
    analysis = evidence.analysis("truth")
    by = {
        figure: {(row.encoder, row.kind): row for row in evidence.leaderboard(figure)}
        for figure in ("times", "distance")
    }
    rows = [row for row in evidence.leaderboard("channels") if row.encoder in choice.encoders]
    if not rows:
        raise InputError("No map was scored for the chosen encoders.")

    def cells(row, digits: int) -> str:
        if row is None:
            return '<td colspan="2" class="none">–</td>'

        def text(x: float) -> str:
            return f"{x:.{digits}f}".replace("-", "−")

        def cell(one) -> str:
            interval = (
                "" if np.isnan(one.low) else f"<small>{text(one.low)} to {text(one.high)}</small>"
            )
            return f"<td>{text(one.value)} {interval}</td>"

        trained = cell(row.trained)
        if row.learned:
            trained = trained.replace("<td>", '<td class="learned"><b>').replace(
                " <small>", "</b> <small>"
            )
        return trained + cell(row.untrained)

    body = "".join(
        f'<tr><th scope="row">{escape(row.kind)}</th><td class="who">{escape(name_of(row.encoder))}'
        f"</td>{cells(row, 2)}"
        f"{cells(by['times'].get((row.encoder, row.kind)), 2)}"
        f"{cells(by['distance'].get((row.encoder, row.kind)), 0)}</tr>"
        for row in rows
    )
    best = rows[0]
    learned = [row for row in rows if row.learned]
    said = (
        f"Most beyond untrained weights and chance: {escape(best.kind)} of "
        f"{escape(name_of(best.encoder))}, "
        f"{number(best.trained.value, best.trained.low, best.trained.high)} trained and "
        f"{number(best.untrained.value, best.untrained.low, best.untrained.high)} untrained. "
        f"{len(learned) or 'None'} of {len(rows)} maps {'beats' if len(learned) == 1 else 'beat'} "
        "both beyond doubt. A map that looks as right before training shows where the EEG is "
        "strong, not what the encoder learned."
    )
    pictures = analysis.about.get("pictures")
    more = (
        f"{'Maps of ' + str(pictures) + ' pictures averaged. ' if pictures else ''}Mean over all "
        "subjects, small: 95 % t interval. Bold: beats untrained weights and chance beyond doubt. "
        + str(analysis.about.get("note", ""))
    )
    heads = "".join(
        f'<th colspan="2" scope="colgroup">{head}</th>'
        for head in ("channels: correlation", "time: correlation", "peak: distance (mm)")
    )
    return Drawn(
        '<div class="scroll" tabindex="0" role="region" aria-label="Maps against the truth">'
        f'<table class="accuracies maps-table"><thead><tr><td></td><td></td>{heads}</tr>'
        f'<tr><th scope="col">map</th><th scope="col">encoder</th>'
        + '<th scope="col">trained</th><th scope="col">untrained</th>'
        * 3
        + f"</tr></thead><tbody>{body}</tbody></table></div>{says(said)}"
        f"{caption(evidence, None, more=more)}"
    )


PANELS = [
    Panel(
        "truth", "Maps against the truth",
        "How well each kind of map finds where and when a phantom's EEG truly depends on "
        "the picture, beside the same map of untrained weights. It can be known of "
        "simulated EEG alone, and holds for real EEG only as far as it is alike.",
        "truth", "how well each kind of map finds the simulated sources", maps_table,
        frozenset({"encoders"}), True,
    ),
]  # fmt: skip
