"""The contrastive loss that draws the EEG of a picture to the picture's embedding."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LOGIT_SCALE = 1 / 0.07  # fixed, as the published code in effect has it


class ContrastiveLoss(nn.Module):
    """Symmetric InfoNCE (Song et al. 2024, section 3.3) that knows of repeated conditions.

    Parameters
    ----------
    learnable : bool
        Whether the logit scale is trained; the published code creates it as a parameter but never
        hands it to the optimizer, so that it stays at 1/0.07.
    """

    def __init__(self, learnable: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE)), requires_grad=learnable)

    def forward(self, eeg: Tensor, pictures: Tensor, conditions: Tensor) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        eeg, pictures : Tensor of shape (batch, dim)
            Embeddings of the trials and of the pictures that were shown; normalised here.
        conditions : Tensor of shape (batch,), integer
            Which picture each row belongs to. Rows of the same condition are all right answers
            for each other; with distinct conditions this is the plain loss.

        Returns
        -------
        Tensor
            Scalar, natural logarithm: the mean of both directions' cross-entropies.
        """
        logits = self.logits(eeg, pictures)
        targets = self.targets(conditions).to(logits.dtype)
        forward = functional.cross_entropy(logits, targets)
        backward = functional.cross_entropy(logits.T, targets)
        return (forward + backward) / 2

    def logits(self, eeg: Tensor, pictures: Tensor) -> Tensor:
        """Return scaled cosines of shape (batch, batch); row: EEG, column: picture."""
        precision = torch.promote_types(eeg.dtype, torch.float32)  # single at least
        eeg = functional.normalize(eeg.to(precision), dim=1)
        pictures = functional.normalize(pictures.to(precision), dim=1)
        return self.log_scale.exp() * eeg @ pictures.T

    def targets(self, conditions: Tensor) -> Tensor:
        """Return the wanted probabilities, (batch, batch): uniform over the same condition."""
        same = (conditions[:, None] == conditions[None, :]).float()
        return same / same.sum(1, keepdim=True)
