"""The course of a training run, and the checkpoint from which a killed run goes on."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from nice_demo.errors import InputError
from nice_demo.files import complete_file


class Course:
    """What a run has come to: weights, optimizer, history, and the best weights so far.

    Parameters
    ----------
    encoder, loss_of : nn.Module
    optimizer : optim.Adam
    checkpoint : Path or None
        Written after every epoch. If it is there already, the run goes on from it.
    identity : dict
        Settings and seed; a checkpoint with others is refused.

    Attributes
    ----------
    epoch : int
        How many epochs are done.
    best_epoch : int
        Which of them had the least validation loss.
    best : dict of Tensor
        The encoder's weights after it.
    history : list of dict
        "loss", "validation_loss" and "validation_top1" of each epoch.

    Raises
    ------
    InputError
        Where the checkpoint is damaged or of another run.
    """

    def __init__(
        self,
        encoder: nn.Module,
        loss_of: nn.Module,
        optimizer: optim.Adam,
        checkpoint: Path | None,
        identity: dict,
    ) -> None:
        self.modules = {"encoder": encoder, "loss": loss_of}
        self.optimizer, self.checkpoint = optimizer, checkpoint
        self.identity = json.loads(json.dumps(identity))
        self.epoch, self.best_epoch, self.history = 0, 0, []
        self.best = {}
        if checkpoint and checkpoint.exists():
            self._read()

    def add(self, loss: float, validation: float, top1: float) -> None:
        """Take in an epoch's figures; keep the weights if they are the best so far."""
        if self.note(loss, validation, top1):
            state = self.modules["encoder"].state_dict()
            self.best = {key: value.detach().cpu().clone() for key, value in state.items()}
        if self.checkpoint:
            self.write()

    def note(self, loss: float, validation: float, top1: float) -> bool:
        """Take in an epoch's figures alone; return whether it is the best so far."""
        self.epoch += 1
        self.history.append({"loss": loss, "validation_loss": validation, "validation_top1": top1})
        best = validation <= min(entry["validation_loss"] for entry in self.history)
        if best:
            self.best_epoch = self.epoch
        return best

    def write(self) -> None:
        """Write the checkpoint."""
        tensors = {f"best/{key}": value for key, value in self.best.items()}
        for name, module in self.modules.items():
            tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{number}/{key}": value for key, value in state.items()}
        tensors = {key: value.detach().cpu().clone() for key, value in tensors.items()}
        figures = {
            "identity": self.identity,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "history": self.history,
        }
        with complete_file(self.checkpoint) as part:
            save_file(tensors, part, {"course": json.dumps(figures)})

    def _read(self) -> None:
        try:
            with safe_open(self.checkpoint, "pt") as file:
                figures = json.loads(file.metadata()["course"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.checkpoint} can't be read ({error}); remove it to train that run anew."
            ) from None
        if figures["identity"] != self.identity:
            raise InputError(
                f"{self.checkpoint} was written with other settings; "
                "give the same ones, or --restart to discard it."
            )
        self.epoch, self.best_epoch = figures["epoch"], figures["best_epoch"]
        self.history = figures["history"]
        self.best = _part(tensors, "best/")
        for name, module in self.modules.items():
            module.load_state_dict(_part(tensors, f"{name}/"))
        adam = self.optimizer.state_dict()
        for key, value in _part(tensors, "adam/").items():
            number, entry = key.split("/")
            adam["state"].setdefault(int(number), {})[entry] = value
        self.optimizer.load_state_dict(adam)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
