"""The README's commands and examples; `run_readme.py` runs the commands at full length."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from run_readme import ROOT, commands
from test_nice import published

from nice_demo import evaluate, prepare
from nice_demo.bundle.__main__ import main as bundle_main

PHANTOM = ROOT / "weights" / "phantom"


def test_every_command_is_run_by_the_script():
    names = [command.split()[0] for command in commands()]
    assert {"make", "python", "pip", "docker"} == set(names)
    assert "python -m nice_demo.evaluate weights/phantom" in commands()
    assert len(commands("python")) == 2


@pytest.fixture(scope="module")
def address():
    """Return the address of `python app.py`, started as the README says but for the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    page = subprocess.Popen(
        [sys.executable, "-u", "app.py"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env=os.environ | {"GRADIO_SERVER_PORT": port},
    )  # fmt: skip
    with page:
        up = next(line for line in page.stdout if "The page is up" in line)
        yield up.split()[-1]
        page.terminate()


def test_client_example(address, capsys):
    example = commands("python")[0]
    assert "http://127.0.0.1:7860/" in example
    exec(example.replace("http://127.0.0.1:7860/", address))
    whole, part = capsys.readouterr().out.splitlines()[-2:]
    rank, _, ways, *simulated = whole.split()
    assert 1 <= int(rank) <= int(ways) == 200
    assert simulated[-1] == "True"
    assert part.startswith("from 17 electrodes, 100 to 400 ms: ")
    assert 1 <= int(part.split()[-1]) <= 200


def test_checkpoint_example(tmp_path, monkeypatch):
    encoder, projection = published()
    torch.save(encoder.state_dict(), tmp_path / "Enc_eeg_cls.pth")
    torch.save(projection.state_dict(), tmp_path / "Proj_eeg_cls.pth")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(commands("python")[1], names)
    eeg = torch.randn(2, 63, 250, generator=torch.Generator().manual_seed(0))
    expected = projection.eval()(encoder.eval()(eeg[:, None]))
    torch.testing.assert_close(names["encoder"](eeg), expected, rtol=1e-4, atol=1e-4)


def test_shipped_bundle_is_whole(capsys):
    assert bundle_main(["verify", str(PHANTOM)]) == 0
    assert bundle_main(["info", str(PHANTOM)]) == 0
    assert "SIMULATED EEG" in capsys.readouterr().out


def test_shipped_figures_are_those_in_the_manifest(capsys):
    """Trials made anew on this machine give the figures that stand in the manifest."""
    assert evaluate.main([str(PHANTOM), "--subjects", "8"]) == 0
    assert "These figures equal those in the manifest." in capsys.readouterr().out


def test_prepared_subjects_are_kept(tiny_data, capsys):
    before = (tiny_data / "sub-01" / "meta.json").stat().st_mtime_ns
    same = ["phantom", "--to", str(tiny_data), "--image-model", "random features"]
    assert prepare.main([*same, "--subjects", "1,2"]) == 0
    assert "2 of 2 subjects are there already" in capsys.readouterr().out
    assert (tiny_data / "sub-01" / "meta.json").stat().st_mtime_ns == before


def test_pictures_of_another_image_model_are_not_mixed(tiny_data, capsys):
    assert prepare.main(["phantom", "--to", str(tiny_data), "--subjects", "1"]) == 2
    assert "give another --to" in capsys.readouterr().err
