"""The tab "About": what this is, what it is not, what happens to what visitors bring."""

from html import escape

import gradio as gr

from nice_demo import __version__
from nice_demo.decode import BundleDecoder, Decoder
from nice_demo.pictures import TWEMOJI_LICENCE
from nice_demo.ui.part_controls import BARE

PAPER = "https://arxiv.org/abs/2308.13234"

_WHAT = """
<p>Somebody looked at a picture while their EEG was recorded. This page shows, one picture at a
time, what a computer retrieves from that signal, how sure it is, how often it is right over all
pictures, and which part of the EEG carried it. The method is NICE (Song et al., ICLR 2024).</p>
"""
_HOW = """
<ol>
<li>An image model has turned each picture into a list of numbers, its <em>embedding</em>, in which
similar pictures are near each other.</li>
<li>The EEG after the picture appeared is averaged over several looks and <em>whitened</em>, which
makes its noise alike on all electrodes.</li>
<li>An <em>encoder</em> has learned, from other pictures of the same person, to turn such EEG into
the embedding of the picture seen.</li>
<li>Here it gets EEG of pictures that it never trained on, and the candidates nearest to what it
makes of them are retrieved.</li>
<li>Where the right one stands among them is its <em>rank</em>; beside every figure stands what
guessing would reach, and how far the figure may be off by luck.</li>
</ol>
"""
_NOT = (
    "It isn't mind reading: the encoder chooses among given pictures, after hours of training on "
    "the same person, in a cap, looking at a screen.",
    "It doesn't draw what was seen: all pictures shown are candidates that were there before.",
    "A single trial proves nothing: only the figures over all pictures, with their chance level "
    "and interval, do.",
    "Maps show which input the encoder uses, not where in the brain it comes from.",
    "It is no medical device, and says nothing about anybody's health.",
)
_SIMULATED = (
    "The EEG shown is <strong>simulated</strong>: phantom subjects, a head model with realistic "
    "noise. How well they are decoded is a setting of the simulation, not a finding about brains."
)
_PRIVACY = """
<p>A recording, picture or table that you upload is read by this page's own server, for you alone.
The file is deleted as soon as it was read, or after ten minutes at the latest where it wasn't;
what was read stays in memory while your session lasts, for half an hour at most, and nowhere
else. Nothing of it is passed on, trained on, or shown to others.</p>
<p>The page sets no cookies, has no statistics and loads nothing from elsewhere. Your browser keeps
one note: that you were shown around. Where whoever runs the page keeps a log, a line holds time,
kind of request, status and duration: no addresses, names of files, or choices. It never fetches an
address that you type in. A host, such as Hugging Face for a Space, may keep logs of its own. EEG is
data about a person: upload what is yours to share, without names in it, and run the page on your
own machine for anything else.</p>
"""
_CITE = """
<p>Song, Liu, Li, Shi, Wang, Gao: <em>Decoding Natural Images from EEG for Object Recognition</em>,
ICLR 2024, <a href="{paper}" target="_blank" rel="noopener">arXiv 2308.13234</a>.
This software: nice_demo {version}, <code>CITATION.cff</code>.</p>
"""


def _program(decoder: Decoder) -> str:
    subject = decoder.subjects[0]
    asked = (
        subject,
        decoder.encoders(subject)[0],
        decoder.gallery.candidates[0].name,
        decoder.repetitions[-1],
    )
    call = ", ".join(map(repr, asked))
    code = (
        "from gradio_client import Client\n\n"
        'client = Client("<span class="here">http://127.0.0.1:7860/</span>")\n'
        'client.predict(api_name="/choices")\n'
        f'client.predict({escape(call, quote=False)}, api_name="/decode")'
    )
    return (
        "<p>Whatever the page shows, a program can ask for; <em>API</em> at the foot of the page "
        "lists all functions with their parameters.</p>"
        f'<pre tabindex="0" aria-label="Example in Python"><code>{code}</code></pre>'
        "<p>Started with <code>python app.py --mcp</code>, the page offers the same functions as "
        "tools of the Model Context Protocol, at <code>/gradio_api/mcp</code>. "
        "<code>/health</code> says whether it is up.</p>"
    )


def _licences(decoder: Decoder, name: str) -> str:
    candidates = decoder.gallery.candidates
    says = ["<li>Code: MIT.</li>"]
    if any((candidate.picture or "").startswith("twemoji:") for candidate in candidates):
        says.append(
            "<li>Pictures: Twemoji graphics, © Twitter, Inc and other contributors, "
            f"{TWEMOJI_LICENCE}.</li>"
        )
    others = {c.licence for c in candidates if c.licence and "twemoji" not in (c.picture or "")}
    says += [f"<li>Pictures: {escape(licence)}</li>" for licence in sorted(others)]
    says.append(f"<li>Data: {escape(name)}, {escape(decoder.provenance)}</li>")
    # What they say about pictures stands here already.
    own = [licence for licence in decoder.licences if not licence.startswith("Pictures")]
    says += [f"<li>{escape(licence)}</li>" for licence in own]
    return f"<ul>{''.join(says)}</ul>"


def about_tab(decoder: Decoder, name: str) -> None:
    """Put the tab's words into the page that is being built.

    Parameters
    ----------
    decoder : Decoder
    name : str
        Of the bundle or the file.
    """
    limits = "".join(f"<li>{escape(sentence)}</li>" for sentence in _NOT)
    if decoder.simulated:
        limits = f"<li>{_SIMULATED}</li>{limits}"
    sections = [
        ("What this is", _WHAT),
        ("What it is not", f"<ul>{limits}</ul>"),
        ("How it works", _HOW),
        ("What happens to what you upload", _PRIVACY),
        ("From a program", _program(decoder)),
        ("Cite", _CITE.format(paper=PAPER, version=__version__)),
        ("Licences", _licences(decoder, name)),
    ]
    if not isinstance(decoder, BundleDecoder):  # what somebody's decoder does, nobody knows here
        sections = [section for section in sections if section[0] != "How it works"]
    html = "".join(f"<section><h2>{title}</h2>{text}</section>" for title, text in sections)
    gr.HTML(f'<div class="about">{html}</div>', elem_id="about", **BARE)
