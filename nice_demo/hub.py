"""Bundles on the Hugging Face Hub: push one with its model card, pull one, open one by its name.

A bundle on the Hub is named ``owner/name`` or ``owner/name@revision`` (a branch, tag or commit),
with ``hf:`` before it where a folder could stand as well. Nothing but safetensors, JSON and
pictures whose licence allows it goes up or comes down, and a bundle that came down is checked like
any other before it appears under its final name.
"""

import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from huggingface_hub import HfApi, ModelCardData, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from safetensors import SafetensorError, safe_open

from nice_demo import __version__
from nice_demo.bundle import MANIFEST, Bundle, LatentsBundle, open_bundle_folder
from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_file, complete_folder, read_json, write_json
from nice_demo.pictures import may_be_published
from nice_demo.retrieval import PROTOCOLS, Metrics, Proportion

PREFIX = "hf:"
CACHE = Path(constants.HF_HOME) / "nice_demo"  # bundles that the page opened; a folder a commit
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
KINDS = {".safetensors", ".json"} | PICTURES
_ONLY_THERE = {"README.md", ".gitattributes"}  # belong to the repository, not to the bundle
_PATIENCE = 10  # s, for the Hub's first answer


def api() -> HfApi:
    """Return the Hub's client; tests put a folder in its place."""
    return HfApi(library_name="nice_demo", library_version=__version__)


# ---------------------------------------------------------------- names and errors


def parse(reference: str) -> tuple[str, str]:
    """Split ``[hf:]owner/name[@revision]``.

    Returns
    -------
    repo : str
    revision : str
        "main" where none is given.

    Raises
    ------
    InputError
    """
    repo, at, revision = reference.removeprefix(PREFIX).partition("@")
    try:
        validate_repo_id(repo)
        well = repo.count("/") == 1
    except HFValidationError:
        well = False
    if not well:
        raise InputError(f"{reference!r} names no bundle of the Hub; write owner/name@revision.")
    if at and (not re.fullmatch(r"[\w][\w./-]*", revision, re.ASCII) or ".." in revision):
        raise InputError(
            f"{reference!r} names no revision after the @; give a branch, a tag or a commit."
        )
    return repo, revision or "main"


@contextlib.contextmanager
def _asking(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub or the network answers into one sentence."""
    try:
        yield
    except InputError:
        raise
    except RepositoryNotFoundError:
        raise InputError(
            f"The Hub has no {repo} that you may read; check the name or, if it is private or "
            "gated, log in with `hf auth login` or set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{repo} has no revision {revision!r}; give a branch, a tag or a commit."
        ) from None
    except LocalTokenNotFoundError:
        raise InputError(
            f"The Hub wants to know who you are for {repo}; log in with `hf auth login`."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = (
            "log in with a token that may do this" if status in (401, 403) else "try again later"
        )
        raise InputError(f"The Hub refuses {repo} (HTTP {status}); {advice}.") from None
    except Exception as error:  # the client lets through what several libraries raise
        raise InputError(
            f"{repo} can't be exchanged with the Hub ({one_line(error)[:160] or repr(error)}); "
            "check the network and try again."
        ) from None


# ---------------------------------------------------------------- what may be published


def _check_names(names: set[str], where: str) -> None:
    for name in sorted(names):
        if PurePosixPath(name).suffix.lower() not in KINDS:
            raise InputError(
                f"{where} holds {name}, which is neither safetensors, JSON nor a picture; "
                "remove it."
            )


def check_publishable(bundle: Bundle) -> None:
    """Check that every file of a bundle is what its name says, and may be published.

    Raises
    ------
    InputError
        For any other kind of file, one with other content than its name says, and a picture
        whose licence forbids it, or that no candidate of the gallery names.
    """
    _check_names(set(bundle.manifest["files"]), str(bundle.folder))
    licences: dict[str | None, set[str]] = {}  # of each picture, all that candidates say
    for entry in bundle.gallery.candidates:
        licences.setdefault(entry.picture, set()).add(entry.licence)
    for name in bundle.manifest["files"]:
        path = bundle.file(name)
        suffix = path.suffix.lower()
        said = licences.get(name, {""})
        if suffix in PICTURES and not all(map(may_be_published, said)):
            licence = ", ".join(sorted(said)) or "not known"
            raise InputError(
                f"The picture {name} of {bundle.folder} may not be published (licence: {licence}); "
                "leave it out, or take a CC0 picture of the same concept."
            )
        try:
            if suffix == ".json":
                read_json(path)
            elif suffix == ".safetensors":
                safe_open(path, "numpy").keys()
            else:
                with Image.open(path) as picture:
                    picture.verify()
        except (InputError, SafetensorError, OSError, SyntaxError, ValueError,
                Image.DecompressionBombError) as error:  # fmt: skip
            raise InputError(
                f"{path} isn't what its name says ({one_line(error)}); make the bundle anew."
            ) from None


# ---------------------------------------------------------------- model card


def _share(proportion: Proportion) -> str:
    value, low, high = (100 * x for x in (proportion.value, proportion.low, proportion.high))
    return f"{value:.1f} % ({low:.1f}–{high:.1f})"


def _tables(bundle: Bundle) -> Iterator[str]:
    """Yield the lines of a table for each protocol, at the most repetitions."""
    measured = [
        (entry["subject"], entry["encoder"], Metrics.from_json(entry["metrics"]))
        for entry in bundle.manifest["metrics"]
    ]
    most = bundle.repetitions[-1]
    for protocol in dict.fromkeys(found.protocol for *_, found in measured):
        rows = [
            row for row in measured if row[2].protocol == protocol and row[2].repetitions == most
        ]
        if not rows:
            continue
        first = rows[0][2]
        yield (
            f"Protocol *{protocol}* ({PROTOCOLS[protocol]}): {first.trials} trials, "
            f"each the average of {most} repetitions, among {first.ways} candidates. Chance: "
            f"{100 * first.top1.chance:.2g} % first, {100 * first.top5.chance:.2g} % among the "
            "first five. In brackets: Wilson 95 % intervals.\n"
        )
        yield "| subject | encoder | right one first | among the first five |\n|---|---|---|---|"
        for subject, encoder, found in rows:
            yield f"| {subject} | {encoder} | {_share(found.top1)} | {_share(found.top5)} |"
        yield ""


def model_card(bundle: Bundle, repo: str, revision: str = "main") -> str:
    """Write the README.md of a bundle's repository, from its manifest."""
    manifest, model = bundle.manifest, bundle.manifest["image_model"]
    name, model_revision = model.get("name"), model.get("revision") or "not known"
    front = ModelCardData(
        library_name="nice_demo",
        license="other",
        license_name="listed-below",
        tags=["eeg", "brain-decoding", "image-retrieval", *["simulated"] * bundle.simulated],
        # Only what is the name of a repository makes a link.
        base_model=name if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) else None,
        datasets=manifest.get("datasets") or None,
    )
    preparation = [f"- {key}: {value}" for key, value in manifest["preparation"].items()]
    licences = [f"- {licence}" for licence in manifest["licences"]]
    pictures = {entry.licence for entry in bundle.gallery.candidates if entry.licence}
    licences += [f"- Pictures: {licence}" for licence in sorted(pictures)]
    lines = [
        f"---\n{front.to_yaml()}\n---\n",
        f"# {bundle.name}\n",
        f"Encoders that map {'**simulated** EEG' if bundle.simulated else 'the EEG'} of "
        f"{'phantom subjects' if bundle.simulated else 'people'} who look at pictures into the "
        "embedding space of an image model (NICE, https://arxiv.org/abs/2308.13234), with the "
        f"candidates and test trials to see how well. Made by nice_demo {manifest['code_version']}."
        "\n",
        "```bash",
        f"python app.py --bundle {PREFIX}{repo}@{revision}",
        f"python -m nice_demo.bundle pull {repo}@{revision}",
        "```\n",
        "A commit in place of the branch pins it. The files are safetensors and JSON: opening them "
        "runs no code.\n",
        "## Data\n",
        f"- source: {manifest['source']}" + (" (**simulated**)" if bundle.simulated else ""),
        f"- subjects: {', '.join(bundle.subjects)}; each decoded by an encoder trained on "
        f"recordings of {bundle.trained_on}",
        f"- EEG: {len(manifest['channels'])} channels, {manifest['sfreq']:g} Hz",
        f"- candidates: {len(bundle.gallery)}",
        f"- image model: {name}, revision {model_revision}\n",
        "## How well it does\n",
        *_tables(bundle),
        "## Preparation\n",
        *preparation,
        "\n## Licences\n",
        *licences,
    ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- push and pull


def push(folder: Path | str, repo: str, private: bool = False, revision: str | None = None) -> str:
    """Publish a bundle with its model card, as one commit.

    Parameters
    ----------
    folder : Path or str
    repo : str
        ``owner/name``; made where it doesn't exist.
    private : bool
    revision : str, optional
        Branch, made where it doesn't exist; "main" where None.

    Returns
    -------
    str
        The commit.

    Raises
    ------
    InputError
        Where the bundle isn't whole or may not be published, the repository holds something
        else, or the Hub refuses.
    """
    if "@" in repo:
        raise InputError(f"{repo!r} isn't owner/name; give the branch with --revision.")
    repo, branch = parse(f"{repo}@{revision}" if revision else repo)
    bundle, hub = Bundle(folder), api()
    check_publishable(bundle)
    with tempfile.TemporaryDirectory() as stage:
        shutil.copytree(bundle.folder, stage, dirs_exist_ok=True)
        card = model_card(bundle, repo, branch)
        Path(stage, "README.md").write_text(card, encoding="utf-8")
        with _asking(repo, branch):
            hub.create_repo(repo, private=private or None, exist_ok=True)
            if revision:
                hub.create_branch(repo, branch=revision, exist_ok=True)
            there = hub.repo_info(repo, revision=branch, timeout=_PATIENCE)
            names = {entry.rfilename for entry in there.siblings} - _ONLY_THERE
            if names and MANIFEST not in names:
                raise InputError(f"{repo} holds something else than a bundle; take another name.")
            if private and not there.private:
                raise InputError(f"{repo} exists and is public; make it private on the Hub first.")
            return hub.upload_folder(
                repo_id=repo,
                folder_path=stage,
                revision=branch,
                commit_message=f"{bundle.name}, made by nice_demo {__version__}",
                delete_patterns="*",  # of an earlier bundle nothing may stay
            ).oid


def pull(repo: str, revision: str, to: Path | str) -> str:
    """Download a bundle and check it; only then it appears at `to`.

    Parameters
    ----------
    repo, revision : str
        As `parse` returns them.
    to : Path or str
        The bundle's folder; a bundle that is there already is replaced.

    Returns
    -------
    str
        The commit; the manifest names it under ``hub``.

    Raises
    ------
    InputError
        Where the Hub can't be reached or refuses, or what it has isn't a sound bundle.
    """
    to = Path(to)
    if to.exists() and not (to / MANIFEST).is_file():
        raise InputError(f"{to} exists and is no bundle; choose another place with --to.")
    hub = api()
    with _asking(repo, revision):
        there = hub.repo_info(repo, revision=revision, timeout=_PATIENCE)
        name = f"{repo}@{there.sha[:10]}"
        names = {entry.rfilename for entry in there.siblings} - _ONLY_THERE
        if MANIFEST not in names:
            raise InputError(f"{name} has no {MANIFEST}, so it isn't a bundle; check the name.")
        _check_names(names, name)
        snapshot = hub.snapshot_download(repo, revision=there.sha)
    try:
        with complete_folder(to) as part:
            # The Hub's cache is made of links, which a bundle may not have: copytree follows them.
            shutil.copytree(
                snapshot, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_ONLY_THERE)
            )
            try:
                bundle = Bundle(part)
                check_publishable(bundle)
            except InputError as error:
                raise InputError(str(error).replace(str(part), name)) from None
            origin = {"repo": repo, "revision": revision, "commit": there.sha}
            write_json(part / MANIFEST, bundle.manifest | {"hub": origin})
    except OSError as error:
        raise InputError(f"{to} can't be written ({one_line(error)}); make room for it.") from None
    return there.sha


# ---------------------------------------------------------------- opening by name


def open_bundle(where: str, instead: Path) -> tuple[Bundle | LatentsBundle, str]:
    """Open a folder or, as ``hf:owner/name[@revision]``, a bundle of the Hub.

    Parameters
    ----------
    where : str
    instead : Path
        Folder of the bundle to open where the Hub's can't be had.

    Returns
    -------
    bundle : Bundle or LatentsBundle
        The latter from a folder only.
    notice : str
        That it isn't the one that was asked for (the log says why); empty where it is.

    Raises
    ------
    InputError
        Where `where` is a folder that isn't a bundle, or no name at all.
    """
    if not where.startswith(PREFIX):
        return open_bundle_folder(where), ""
    repo, revision = parse(where)
    try:
        return _cached(repo, revision), ""
    except InputError as error:
        bundle = Bundle(instead)
        notice = f"{where} couldn't be opened, so this is the bundle “{bundle.name}” instead"
        notice += ", whose EEG is simulated." if bundle.simulated else "."
        # Visitors needn't read of tokens and names of machines.
        print(f"warning: {notice} {error}", file=sys.stderr, flush=True)
        return bundle, f"{notice} The log says why."


def _cached(repo: str, revision: str) -> Bundle:
    """Open a bundle of the Hub; what was pulled once isn't downloaded again."""
    folder = CACHE / repo.replace("/", "--")
    latest = folder / f"{quote(revision, safe='')}.txt"  # the commit that this revision was
    if (folder / revision / MANIFEST).is_file():  # a commit stays what it is: no need to ask
        commit = revision
    else:
        try:
            with _asking(repo, revision):
                commit = api().repo_info(repo, revision=revision, timeout=_PATIENCE).sha
        except InputError as error:
            if not latest.is_file():
                raise
            commit = latest.read_text(encoding="utf-8")
            print(f"{error} Opening {commit[:10]}, pulled earlier.", file=sys.stderr, flush=True)
    place = folder / commit
    try:
        bundle = Bundle(place)
    except InputError:  # not there yet, or damaged
        shutil.rmtree(place, ignore_errors=True)
        pull(repo, commit, place)
        bundle = Bundle(place)
    with complete_file(latest) as part:
        part.write_text(commit, encoding="utf-8")
    return bundle
