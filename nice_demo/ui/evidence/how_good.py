"""How good: the accuracy of all subjects and encoders in a table."""

from html import escape

import numpy as np

from nice_demo.retrieval import Metrics, t_interval
from nice_demo.ui.cards import percent
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.published import CENTRES, WITHIN_SUBJECTS
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import caption, difference, name_of, says


def table(evidence: Evidence, choice: Choice) -> Drawn:
    """Return all subjects × encoders."""
    encoders, subjects = evidence.encoders, evidence.bundle.subjects
    ways = len(evidence.bundle.gallery)

    def cell(*shares: tuple[float, float, float]) -> str:
        told = []
        for value, low, high in shares:
            ends = "" if np.isnan(low) else f"{percent(max(low, 0))}–{percent(min(high, 1))}"
            told.append(f"<td><b>{percent(value)}</b> <small>{ends}</small></td>")
        return "".join(told)

    def of_one(measured: Metrics) -> str:
        return cell(*((m.value, m.low, m.high) for m in (measured.top1, measured.top5)))

    blank = '<td colspan="2" class="none">not in this bundle</td>'
    heads = "".join(
        f'<th colspan="2" scope="colgroup">{escape(name_of(encoder))}</th>' for encoder in encoders
    )
    top_heads = '<th scope="col">top-1</th><th scope="col">top-5</th>' * len(encoders)
    rows, means = [], []
    for subject in subjects:
        measured = [evidence.metrics.get((subject, encoder)) for encoder in encoders]
        cells = "".join(of_one(m) if m else blank for m in measured)
        chosen = ' class="chosen"' if subject == choice.subject else ""
        name = escape(evidence.of_subject(subject))
        rows.append(f'<tr{chosen}><th scope="row">{name}</th>{cells}</tr>')
    for encoder in encoders:
        measured = [evidence.metrics.get((subject, encoder)) for subject in subjects]
        if len(subjects) > 1 and all(measured):
            tops = [[m.top1.value for m in measured], [m.top5.value for m in measured]]
            means.append(cell(*map(t_interval, tops)))
        else:
            means.append('<td colspan="2" class="none">–</td>')
    last = []
    if len(subjects) > 1:
        last.append(f'<tr class="mean"><th scope="row">Mean</th>{"".join(means)}</tr>')
    chance = f"<td>{percent(1 / ways)}</td><td>{percent(5 / ways)}</td>" * len(encoders)
    last.append(f'<tr class="soft"><th scope="row">Chance</th>{chance}</tr>')
    published = "".join(
        f"<td>{percent(WITHIN_SUBJECTS[e][0])}</td><td>{percent(WITHIN_SUBJECTS[e][1])}</td>"
        if e in WITHIN_SUBJECTS
        else '<td colspan="2" class="none">–</td>'
        for e in encoders
    )
    last.append(f'<tr class="soft published"><th scope="row">{draw.PUBLISHED}</th>{published}</tr>')
    looks = evidence.bundle.repetitions[-1]
    below = caption(evidence,
        None, more=f"In per cent, {looks} repetitions averaged; small: 95 % intervals, Wilson's "
        f"over pictures, of the mean t over subjects. Published: {CENTRES} (Song et al. 2024), "
        "so neither EEG nor protocol is the same.",
    )  # fmt: skip
    return Drawn(
        f'<div class="scroll" tabindex="0" role="region" aria-label="Accuracy of all subjects">'
        f'<table class="accuracies"><thead><tr><td></td>{heads}</tr><tr><td></td>{top_heads}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody><tfoot>{''.join(last)}</tfoot></table></div>"
        f"{below}{says(*does_attention_help(evidence, choice))}"
    )


def does_attention_help(evidence: Evidence, choice: Choice) -> list[str]:
    """Say of each attention encoder what it adds to NICE, paired over subjects."""
    said = []
    for encoder in ("nice-sa", "nice-ga"):
        if encoder not in evidence.encoders or "nice" not in evidence.encoders:
            continue
        both = [
            (evidence.metrics.get((subject, encoder)), evidence.metrics.get((subject, "nice")))
            for subject in evidence.bundle.subjects
        ]
        hits = [[getattr(m, f"top{choice.top}").value for m in pair] for pair in both if all(pair)]
        if not hits:
            continue
        with_it, without = np.transpose(hits)
        mean, low, high = t_interval(with_it - without)
        kind = {"nice-sa": "self-attention", "nice-ga": "graph attention"}[encoder]
        if low > 0:
            verdict = (
                f"{kind} over channels does better here, if the luck of one training is left aside."
            )
        elif high < 0:
            verdict = (
                f"{kind} over channels does worse here, if the luck of one training is left aside."
            )
        else:
            verdict = f"{kind} over channels makes no difference that could be told from none."
        n = len(hits)
        how = f"paired, {n} subjects" if n > 1 else "one subject"
        how += f", one training each, top-{choice.top}"
        said.append(
            f"{name_of(encoder)} against NICE: {difference(mean, low, high)}, {how}; {verdict}"
        )
    return said or ["This bundle has no attention encoder beside NICE to compare."]


PANELS = [
    Panel(
        "how-good", "All subjects and encoders",
        "Of how many pictures the one that was seen is the decoder's first choice (top-1) "
        "or among its first five (top-5). It says nothing about single looks: as many "
        "repetitions as there are were averaged.",
        "", "the accuracy of all subjects", table, frozenset({"subject", "top"}), True,
    ),
]  # fmt: skip
