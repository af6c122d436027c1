"""Look at bundles, publish them, get them.

python -m nice_demo.bundle info PATH
python -m nice_demo.bundle verify PATH
python -m nice_demo.bundle push PATH owner/name [--private] [--revision BRANCH]
python -m nice_demo.bundle pull owner/name[@revision] [--to PATH]
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from nice_demo import hub
from nice_demo.bundle import Bundle, LatentsBundle, open_bundle_folder
from nice_demo.encoders import embed
from nice_demo.errors import InputError, command, one_line


def _info(bundle: Bundle) -> str:
    manifest = bundle.manifest
    megabytes = sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6
    encoders = sorted({name for subject in bundle.subjects for name in bundle.encoders(subject)})
    lines = [
        f"{bundle.name}: {'SIMULATED EEG, ' if bundle.simulated else ''}{manifest['source']}",
        f"subjects     {', '.join(bundle.subjects)}",
        f"encoders     {', '.join(encoders)}",
        f"trained on   {bundle.trained_on}",
        f"gallery      {len(bundle.gallery)} candidates, "
        f"{' and '.join(gallery.protocol for gallery in bundle.galleries)} protocol",
        f"image model  {manifest['image_model'].get('name')} "
        f"({manifest['image_model'].get('revision')})",
        f"EEG          {len(manifest['channels'])} channels, {manifest['sfreq']:g} Hz",
        f"repetitions  {', '.join(map(str, bundle.repetitions))}",
        f"made by      nice_demo {manifest['code_version']}",
        f"files        {len(manifest['files'])}, {megabytes:.1f} MB",
    ]
    return "\n".join(lines + [f"licence      {licence}" for licence in manifest["licences"]])


def _info_of_latents(bundle: LatentsBundle) -> str:
    manifest, gallery = bundle.manifest, bundle.gallery
    encoders = sorted({name for subject in bundle.subjects for name in bundle.encoders(subject)})
    lines = [
        f"{bundle.name}: {'SIMULATED EEG, ' if bundle.simulated else ''}{manifest['source']}",
        f"subjects     {', '.join(bundle.subjects)}",
        f"latents of   {', '.join(encoders)}",
        f"gallery      {len(gallery)} candidates, {gallery.protocol} protocol",
        f"image model  {manifest['image_model'].get('name')} "
        f"({manifest['image_model'].get('revision')})",
        f"made by      nice_demo {manifest['code_version']}",
    ]
    return "\n".join(lines + [f"licence      {licence}" for licence in manifest["licences"]])


def _try_out(bundle: Bundle, subject: str) -> None:
    """Decode the last picture with every encoder: files that don't fit each other show only so."""
    try:
        evoked = bundle.trials(subject).evoked(len(bundle.gallery) - 1, bundle.repetitions[0])
        eeg = torch.from_numpy(evoked.eeg)[None]
        if eeg.shape[1] != len(bundle.montage.names):
            raise ValueError(f"{eeg.shape[1]} channels, {len(bundle.montage.names)} in the montage")
        for encoder in bundle.encoders(subject):
            found = embed(bundle.encoder(subject, encoder), eeg)
            if any(found.shape[1] != g.embeddings.shape[1] for g in bundle.galleries):
                raise ValueError(f"{encoder} doesn't embed where the gallery's pictures are")
    except InputError:
        raise
    except (IndexError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(
            f"The files of subject {subject} in {bundle.folder} don't fit each other "
            f"({one_line(error)}); train the bundle again."
        ) from None


def _exchange(options: argparse.Namespace) -> int:
    if options.what == "push":
        commit = hub.push(options.path, options.repo, options.private, options.revision)
        print(f"{options.path} is {options.repo}@{commit}; open it with")
        print(f"    python app.py --bundle hf:{options.repo}@{commit}")
    else:
        repo, revision = hub.parse(options.repo)
        to = options.to or Path("weights") / repo.split("/")[1]
        commit = hub.pull(repo, revision, to)
        print(f"{to} is {repo}@{commit}; open it with")
        print(f"    python app.py --bundle {to}")
    return 0


def _look_at_latents(bundle: LatentsBundle, what: str) -> int:
    if what == "info":
        print(_info_of_latents(bundle))
        return 0
    read = [bundle.latents(s, name) for s in bundle.subjects for name in bundle.encoders(s)]
    files = len(bundle.manifest["files"])
    print(
        f"{bundle.folder}: {files} files, {len(bundle.gallery)} candidates, "
        f"latents of {len(read)} decoder{'s' * (len(read) > 1)}: all well"
    )
    return 0


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.bundle``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    does = {
        "info": "say what a bundle is",
        "verify": "check every file and try every encoder",
        "push": "publish a bundle on the Hugging Face Hub",
    }
    ways = {what: commands.add_parser(what, help=text) for what, text in does.items()}
    for way in ways.values():
        way.add_argument("path", type=Path, help="the bundle's folder")
    ways["push"].add_argument("repo", help="owner/name; made where it doesn't exist")
    ways["push"].add_argument("--private", action="store_true", help="make it for your eyes only")
    ways["push"].add_argument("--revision", help="the branch; made where it doesn't exist")
    way = commands.add_parser("pull", help="get a bundle from the Hugging Face Hub")
    way.add_argument("repo", help="owner/name[@revision]: a branch, tag or commit")
    way.add_argument("--to", type=Path, help="its folder; else weights/NAME")
    options = parser.parse_args(argv)
    if options.what in ("push", "pull"):
        return _exchange(options)
    bundle = open_bundle_folder(options.path)
    if isinstance(bundle, LatentsBundle):
        return _look_at_latents(bundle, options.what)
    if options.what == "info":
        print(_info(bundle))
        return 0
    for subject in bundle.subjects:
        _try_out(bundle, subject)
    candidates, channels = len(bundle.gallery), len(bundle.montage.names)
    files = len(bundle.manifest["files"])
    print(f"{options.path}: {files} files, {candidates} candidates, {channels} channels: all well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
