"""The tab "Pictures and words": trials nearest to a word, and a visitor's pictures as candidates.

In flow a word or uploaded pictures with names, through `nice_demo.queries`; out flows HTML. The
image model is loaded in the background when somebody first asks; until it is there a timer asks
again. Pictures stay in the session's memory, and their files are deleted as soon as they are read.
"""

from contextlib import suppress
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from nice_demo import queries
from nice_demo.decode import BundleDecoder
from nice_demo.decode.embeddings import DecodedTrials
from nice_demo.errors import InputError
from nice_demo.image_model import LOADING, UNAVAILABLE, PictureModel
from nice_demo.queries import LARGEST_FILE, PICTURES, PicturesRanked, WordFound
from nice_demo.retrieval import Proportion
from nice_demo.ui import cards
from nice_demo.ui.api import public
from nice_demo.ui.part_controls import BARE
from nice_demo.ui.view import find_picture, view_of
from nice_demo.ui.words import cards as words_cards
from nice_demo.ui.words.cards import Added

EXAMPLES = ("pizza", "animal", "something with wheels")
MINUTES = 30  # that a visitor's pictures stay in memory, at most
TICK = 1.0  # s between two questions whether it is ready
PATIENCE = 60.0  # s that a program waits for an answer

_HELP_WORD = (
    "The word is embedded by the image model that embedded the candidates, and the trials are "
    "sorted by how similar that is (a cosine) to what the encoder made of their EEG. Nobody "
    "thought of the word: it is compared with EEG recorded while pictures were looked at."
)
_HELP_PICTURES = (
    "Your pictures become further candidates: each is embedded and compared with what the encoder "
    "made of the trial's EEG, as the gallery's own are. They say nothing about your brain, and "
    "they aren't kept: they are gone with this page, or after 30 minutes."
)
_SIMULATED = (
    "Simulated EEG: what trials and encoders know of words and pictures was put into the "
    "simulation. This shows how such a search works, not what brains hold."
)
_EMPTY_WORD = (
    "Type a word, or press one of the examples: here will be the trials whose decoded EEG is "
    "nearest to it."
)
_EMPTY_PICTURES = (
    "Add a picture of something: here will be where it ranks among the candidates, for the trial "
    f"chosen. PNG, JPEG or WebP, {LARGEST_FILE / 1e6:.0f} MB at most each."
)


def words_tab(decoder: BundleDecoder, tab: gr.Tab) -> None:
    """Put the tab's components and listeners into the page that is being built.

    Parameters
    ----------
    decoder : BundleDecoder
    tab : gradio.Tab
        Around it.
    """
    model, trials = PictureModel(decoder.bundle), DecodedTrials(decoder)
    gallery = decoder.gallery

    # ------------------------------------------------------------ what is on the screen
    with gr.Column(elem_classes="words"):
        if decoder.simulated:
            gr.HTML(f'<p class="notice">{escape(_SIMULATED)}</p>', **BARE)
        subject, encoder, repetitions = _whose_trials(decoder)
        with gr.Column(elem_classes="two", min_width=0):
            with gr.Column(elem_classes="part", elem_id="word-part", min_width=0):
                gr.HTML(cards.heading("Find a word in the trials", _HELP_WORD), **BARE)
                with gr.Row(elem_classes="ask"):
                    word = gr.Textbox(
                        label="Word or a few", elem_id="word", max_lines=1, min_width=0,
                        placeholder="pizza", max_length=queries.LONGEST_WORD, container=False,
                    )  # fmt: skip
                    find = gr.Button("Find", elem_id="find-word", min_width=0)
                with gr.Row(elem_classes="ask examples"):
                    examples = [gr.Button(text, min_width=0, size="sm") for text in EXAMPLES]
                found = gr.HTML(words_cards.empty(_EMPTY_WORD), elem_id="word-found", **BARE)
            with gr.Column(elem_classes="part", elem_id="picture-part", min_width=0):
                gr.HTML(cards.heading("Add your pictures", _HELP_PICTURES), **BARE)
                with gr.Row(elem_classes="ask"):
                    upload = gr.UploadButton(
                        "Add pictures", elem_id="add-pictures", file_count="multiple",
                        min_width=0,
                    )  # fmt: skip
                    remove = gr.Button(
                        "Remove all", elem_id="remove-pictures", visible="hidden", min_width=0
                    )
                names = gr.Textbox(
                    label="Their names, one a line", elem_id="picture-names", visible="hidden",
                    lines=1, max_lines=PICTURES, min_width=0,
                )  # fmt: skip
                seen = gr.Dropdown(
                    _choices(decoder), value=gallery.candidates[0].id, elem_id="words-seen",
                    label="Trial: the picture that was seen", num_choices_shown=None, min_width=0,
                )  # fmt: skip
                ranked = gr.HTML(
                    words_cards.empty(_EMPTY_PICTURES), elem_id="picture-ranks", **BARE
                )
        asked = gr.State("", time_to_live=60 * MINUTES)  # the word on the screen
        added = gr.State([], time_to_live=60 * MINUTES)
        word_timer, picture_timer = (gr.Timer(TICK, active=False) for _ in range(2))

    # ------------------------------------------------------------ words
    def still_missing(*whose) -> str:
        """Say what a visitor must wait for; nothing where all is ready."""
        state, done, says = model.ask(), trials.ask(*whose), []
        if state == UNAVAILABLE:
            raise InputError(model.why)
        if state == LOADING:
            says.append("The image model is being loaded, once for all visitors.")
        if done < trials.total:
            says.append(f"The trials are being decoded: {done} of {trials.total}.")
        return " ".join(says)

    def look_up(text: str, *whose) -> tuple[WordFound, Proportion, Proportion]:
        clean = queries.clean(text)
        decoded = trials.wait(*whose, seconds=PATIENCE)
        one = model.wait(PATIENCE).embed_words([clean])[0]
        over_all = [
            queries.own_among_first(model.names(), rows) for rows in (decoded, gallery.embeddings)
        ]
        return queries.find_trials(gallery, decoded, clean, one), *over_all

    def show_word(text: str, *whose) -> tuple:
        if not text:
            return gr.skip(), gr.Timer(active=False)
        try:
            queries.clean(text)
            if missing := still_missing(*whose):
                return words_cards.waiting(missing), gr.Timer(active=True)
            found = words_cards.word_found(decoder, *look_up(text, *whose), whose[2])
            return found, gr.Timer(active=False)
        except InputError as error:
            return cards.notice(str(error), error=True), gr.Timer(active=False)

    def ask_word(text: str, *whose) -> tuple:
        if not text.strip():
            return "", words_cards.empty(_EMPTY_WORD), gr.Timer(active=False)
        return text, *show_word(text, *whose)

    # ------------------------------------------------------------ pictures
    def show_pictures(own: list[Added], which: str, *whose) -> tuple:
        if not own:
            return gr.skip(), gr.Timer(active=False)
        try:
            if missing := still_missing(*whose):
                says = words_cards.strip(own) + words_cards.waiting(missing)
                return says, gr.Timer(active=True)
            ranks = rank(own, which, *whose)
            return words_cards.pictures_ranked(decoder, own, ranks), gr.Timer(active=False)
        except InputError as error:
            says = words_cards.strip(own) + cards.notice(str(error), error=True)
            return says, gr.Timer(active=False)

    def rank(own: list[Added], which: str, *whose) -> PicturesRanked:
        row = gallery.index(find_picture(gallery, which))
        decoded = trials.wait(*whose, seconds=PATIENCE)
        called = [one.name for one in own]
        embeddings = model.wait(PATIENCE).embed([one.picture for one in own], called)
        return queries.rank_pictures(gallery, decoded, row, called, embeddings)

    def take(files: list[str], own: list[Added], which: str, *whose) -> tuple:
        says = ""
        try:
            for content, name in _taken(files):
                if len(own) >= PICTURES:
                    raise InputError(
                        f"There is room for {PICTURES} pictures at a time; remove those you don't "
                        "need any more."
                    )
                own = [*own, words_cards.added_from(content, name)]
        except InputError as error:
            says = cards.notice(str(error), error=True)
        shown, timer = show_pictures(own, which, *whose)
        if not own:
            shown = words_cards.empty(_EMPTY_PICTURES)
        return None, own, *_of_pictures(own), says + shown, timer

    def rename(text: str, own: list[Added], which: str, *whose) -> tuple:
        lines = text.splitlines()
        try:
            for row, one in enumerate(own):
                line = lines[row].strip() if row < len(lines) else ""
                called = queries.clean(line, "a name") if line else ""
                own = [*own[:row], replace(one, name=called), *own[row + 1 :]]
        except InputError as error:
            return own, cards.notice(str(error), error=True), gr.Timer(active=False)
        return own, *show_pictures(own, which, *whose)

    def forget() -> tuple:
        return [], *_of_pictures([]), words_cards.empty(_EMPTY_PICTURES), gr.Timer(active=False)

    # ------------------------------------------------------------ listeners
    # Files are taken as paths, without the empty file that gradio would leave beside each.
    upload.preprocess = _paths
    whose = [subject, encoder, repetitions]
    private = {"api_visibility": "private", "show_progress": "hidden"}
    words = private | {
        "trigger_mode": "always_last", "concurrency_id": "words", "concurrency_limit": 2,
    }  # fmt: skip
    for_word, for_pictures = [found, word_timer], [ranked, picture_timer]
    gr.on([find.click, word.submit], ask_word, [word, *whose], [asked, *for_word], **words)
    for button, text in zip(examples, EXAMPLES, strict=True):
        button.click(
            lambda *whose, text=text: (text, *ask_word(text, *whose)),
            whose, [word, asked, *for_word], **words,
        )  # fmt: skip
    word_timer.tick(show_word, [asked, *whose], for_word, **words)
    upload.upload(
        take, [upload, added, seen, *whose], [upload, added, names, remove, *for_pictures],
        **private, concurrency_id="uploaded pictures", concurrency_limit=2,
    )  # fmt: skip
    gr.on(
        [names.blur, names.submit], rename, [names, added, seen, *whose],
        [added, *for_pictures], **words,
    )  # fmt: skip
    remove.click(forget, None, [added, names, remove, *for_pictures], **private)
    gr.on(
        [picture_timer.tick, seen.input], show_pictures, [added, seen, *whose], for_pictures,
        **words,
    )  # fmt: skip
    for control in whose:
        control.input(show_word, [asked, *whose], for_word, **words)
        control.input(show_pictures, [added, seen, *whose], for_pictures, **words)

    # ------------------------------------------------------------ for programs
    def find_words(word: str, subject: str, encoder: str, repetitions: int) -> dict:
        """Find the trials whose decoded EEG is nearest to a word.

        Returns the ten nearest trials with what was seen in each and the cosine similarity; the
        rank of the picture of that name, if there is one; and for the names of all pictures how
        often their own trial is among the ten, with chance, a 95 % interval, and the same with the
        pictures' own embeddings in place of EEG. The first call may take a minute: the image model
        is loaded for it.

        Args:
            word: A word or a few, such as "pizza"; 80 characters at most.
            subject: Whose EEG, such as "1"; `choices` lists them.
            encoder: Which decoder, such as "nice"; `choices` lists them.
            repetitions: How many looks at each picture are averaged, such as 80.
        """
        view = view_of(decoder, subject, encoder, gallery.candidates[0].id, repetitions)
        found = look_up(word, view.subject, view.encoder, view.repetitions)
        return words_cards.about(decoder, view) | words_cards.word_to_json(decoder, *found)

    def rank_picture(
        picture: gr.FileData, name: str, subject: str, encoder: str, seen: str, repetitions: int
    ) -> dict:
        """Tell where a picture of your own ranks among the candidates of a trial.

        Returns its rank among all candidates and itself, and by chance; its cosine similarity;
        the rank of the picture that was seen; and the trials to which it is most similar. The
        picture is deleted as soon as it is read. The first call may take a minute: the image model
        is loaded for it.

        Args:
            picture: PNG, JPEG or WebP, 5 MB at most. Uploaded; addresses aren't fetched.
            name: What it shows, which the phantom's image model needs; may be empty.
            subject: Whose EEG, such as "1"; `choices` lists them.
            encoder: Which decoder, such as "nice"; `choices` lists them.
            seen: Id or name of the picture that was seen in the trial, such as "dog".
            repetitions: How many looks are averaged, such as 80.
        """
        own = [words_cards.added_from(*given) for given in _taken([picture["path"]])]
        if not own:
            raise InputError("There is no picture; upload one.")
        called = queries.clean(name, "a name") if name.strip() else ""
        view = view_of(decoder, subject, encoder, seen, repetitions)
        ranked = rank(
            [replace(own[0], name=called)], view.picture,
            view.subject, view.encoder, view.repetitions,
        )  # fmt: skip
        return words_cards.about(decoder, view) | words_cards.ranked_to_json(decoder, ranked)

    for function in (find_words, rank_picture):
        public(function, concurrency_id="words of programs", concurrency_limit=1)


def _whose_trials(decoder: BundleDecoder) -> list[gr.Dropdown]:
    """Make subject, encoder and repetitions; one with a single choice isn't shown."""
    subjects = [(f"Phantom {s}" if decoder.simulated else s, s) for s in decoder.subjects]
    encoders = list(dict.fromkeys(e for s in decoder.subjects for e in decoder.encoders(s)))
    most = decoder.repetitions[-1]

    def quality(subject: str) -> float:
        measured = decoder.metrics(subject, decoder.encoders(subject)[0], most)
        return measured.top5.value if measured else 0.0

    best = max(decoder.subjects, key=quality)
    fields = (
        ("Subject", "words-subject", subjects, best),
        ("Encoder", "words-encoder", [(cards.ENCODER_NAMES.get(e, e), e) for e in encoders],
         decoder.encoders(best)[0]),
        ("Repetitions averaged", "words-repetitions", decoder.repetitions, most),
    )  # fmt: skip
    with gr.Row(elem_classes="whose"):
        return [
            gr.Dropdown(
                choices, value=value, label=label, elem_id=name, filterable=False,
                visible=len(choices) > 1, min_width=0,
            )
            for label, name, choices, value in fields
        ]  # fmt: skip


def _choices(decoder: BundleDecoder) -> list[tuple[str, str]]:
    candidates = decoder.gallery.candidates
    names = [one.name for one in candidates]
    return [
        (one.name if names.count(one.name) == 1 else f"{one.name} ({one.id})", one.id)
        for one in candidates
    ]


def _of_pictures(own: list[Added]) -> tuple[gr.Textbox, gr.Button]:
    """Show the field with the names, and the way to be rid of them, where there are pictures."""
    visible = True if own else "hidden"
    names = "\n".join(one.name for one in own)
    return gr.Textbox(names, visible=visible, lines=len(own) or 1), gr.Button(visible=visible)


# ---------------------------------------------------------------- files


def _paths(payload) -> list[str]:
    return [file.path for file in payload or []]


def _taken(paths: list[str]) -> list[tuple[bytes, str]]:
    """Return content and name of uploaded files; whatever happens, afterwards none is there."""
    folder = Path(get_upload_folder()).resolve()
    files = [Path(path).resolve() for path in paths]
    files = [file for file in files if file.is_relative_to(folder) and file != folder]
    try:
        contents = []
        for file in files[: PICTURES + 1]:  # one too many, so that it can be said
            with open(file, "rb") as opened:
                contents.append((opened.read(LARGEST_FILE + 1), file.stem))
        return contents
    except OSError:
        raise InputError(
            "The upload isn't here any more: it waits for ten minutes at most; please upload it "
            "again."
        ) from None
    finally:
        for file in files:
            with suppress(OSError):
                file.unlink()
                file.parent.rmdir()  # gradio's, of this file alone
