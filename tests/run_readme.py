"""Run every command of the README, one after the other, as a new user would.

    python tests/run_readme.py FOLDER [--skip PATTERN …]

FOLDER is a fresh clone, and the current folder's Python makes its virtual environment. A command
that serves a page is stopped once the page is up. The files that the README calls `latents.npy`
and so on are copied from the real data in ../shared/data, and the recordings that it calls
`session.edf` and `bids` are made up (`own_recordings.py`). Commands that need THINGS-EEG2 or the
Hub are left to `test_rehearsal.py`, which runs them over small fakes, and those of `ELSEWHERE` to
other tests. Takes an hour or more, most of it the training of ten subjects. `--skip` leaves out
the commands in which a regular expression is found: that training, for example, with
'nice_demo.train --jobs 2$'.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data"
REHEARSED = ("things-eeg2", "owner/name")
ELSEWHERE = ("published-latents", "docker")  # test_published_latents.py, test_hosting.py
EXAMPLES = {
    "latents.npy": "things_eeg2/atm_s_sub08_test_latents.npy",
    "gallery.npy": "things_eeg2/openclip_vith14_test_image.npy",
    "names.txt": "things_eeg2/test_images.txt",
    "other.npy": "things_eeg2/openclip_vith14_test_text.npy",
    "epochs.npz": "muse_n170/epochs.npz",
}


def commands(language: str = "bash") -> list[str]:
    """Return the README's commands (or its Python examples, each whole), in order."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if language != "bash":
        return blocks
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> None:
    """Run a command in the folder's virtual environment; a page is stopped once it is up."""
    environment = os.environ | {
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    start = time.monotonic()
    process = subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output = []
    for line in process.stdout:
        output.append(line)
        if "The page is up" in line:
            os.killpg(process.pid, signal.SIGTERM)
    code = process.wait()
    served = any("The page is up" in line for line in output)
    print(
        f"{time.monotonic() - start:7.1f} s  {'page up' if served else code}  {command}", flush=True
    )
    if code and not served:
        sys.exit("".join(output[-30:]))


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skip", nargs="*", default=[])
    options = parser.parse_args()
    folder = options.folder.resolve()
    for name, source in EXAMPLES.items():
        shutil.copyfile(REAL / source, folder / name)
    shutil.copytree(REAL / "cc0_photos", folder / "photos", dirs_exist_ok=True)
    for command in commands():
        if any(re.search(one, command) for one in [*options.skip, *REHEARSED, *ELSEWHERE]):
            continue
        if "session.edf" in command and not (folder / "session.edf").exists():
            run("PYTHONPATH=. python tests/own_recordings.py .", folder)
        run(command, folder)


if __name__ == "__main__":
    main()
