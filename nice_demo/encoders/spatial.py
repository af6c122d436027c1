"""NICE-SA and NICE-GA: channels attend to each other before NICE convolves in time.

Song et al., "Decoding Natural Images from EEG for Object Recognition", ICLR 2024, section 3 (the
spatial modules). EEG of shape (batch, channels, times) flows in; EEG of the same shape flows on
into `NICE`, whose embeddings flow out. How much each channel attended to each other one can be
read from either encoder: `attention`.

The authors' code of both modules doesn't do what the paper describes: its self-attention sums the
weights before it applies them, and so returns its input; its graph joins the channels of a batch's
first sample only. Here is what the paper means. Where paper and code leave a choice open:

* A channel is one token or node: its whole time course. Queries, keys and scores are made from it
  alone, without any sign of where the electrode sits, so permuting the channels permutes the
  attention, and any number of channels will do. Which channel is which, NICE's spatial convolution
  knows. (The published queries mix channels at each sample, which ties them to one montage and
  leaves open whose attention a row is.)
* One head, so that there is one map to look at.
* A channel also attends to itself.
* No dropout within the attention, only on what it adds to the EEG: every row sums to 1, always.
"""

from torch import Tensor, nn
from torch.nn import functional

from nice_demo.encoders.blocks import Dropout
from nice_demo.encoders.nice import NICE

QUERY = 64  # length of queries and keys
SLOPE = 0.2  # of the graph attention's LeakyReLU below zero, as in Veličković et al.


class SelfAttention(nn.Module):
    """Add to each channel a weighted mean of all channels; weights by queries and keys.

    With N = LayerNorm(X), a time course in each row: X + dropout(softmax(Q Kᵀ / √64) N), where
    Q = N W_query and K = N W_key (scaled dot products, Vaswani et al. 2017).

    As in the published code, the normalised time courses are themselves the values: attention
    chooses which channels are mixed, while every sample stays at its time. Unlike there, no
    projection over channels follows, because NICE's spatial convolution does that.

    Parameters
    ----------
    times : int
        Samples of an epoch.
    dropout : float
        Probability, of each sample that is added.
    """

    def __init__(self, times: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(times)
        # Without biases: a key's would change nothing, and the norm's does what a query's would.
        self.query = nn.Linear(times, QUERY, bias=False)
        self.key = nn.Linear(times, QUERY, bias=False)
        self.dropout = Dropout(dropout)
        for linear in (self.query, self.key):
            nn.init.xavier_normal_(linear.weight)  # as published: weights differ from the start

    def forward(self, eeg: Tensor) -> Tensor:
        """Mix the channels of EEG of shape (batch, channels, times); the shape stays."""
        normed = self.norm(eeg)
        return eeg + self.dropout(self._weights(normed) @ normed)

    def attention(self, eeg: Tensor) -> Tensor:
        """Return the weights, (batch, channels, channels); row: the channel that attends."""
        return self._weights(self.norm(eeg))

    def _weights(self, normed: Tensor) -> Tensor:
        query = self.query(normed) / QUERY**0.5  # (batch, channels, 64)
        return (query @ self.key(normed).transpose(1, 2)).softmax(2)


class GraphAttention(nn.Module):
    """Add to each channel a weighted mean of all channels' features; weights by graph attention.

    Veličković et al., "Graph Attention Networks", ICLR 2018, section 2.1, on the complete graph of
    channels: with features F = X W, X + dropout(softmax(E) F), where channel i's score for channel
    j is E_ij = LeakyReLU(a_attending · F_i + a_attended · F_j).

    The features are as long as the time courses (250 → 250), and, as published, without
    normalisation before, non-linearity behind, or bias. A trait of this attention (Brody et al.,
    ICLR 2022): all channels of a trial rank the others alike, since only the second term depends
    on j. Its maps therefore look like stripes: one ranking, more or less pronounced by row.

    Parameters
    ----------
    times : int
        Samples of an epoch.
    dropout : float
        Probability, of each sample that is added.
    """

    def __init__(self, times: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Linear(times, times, bias=False)
        self.attending = nn.Linear(times, 1, bias=False)
        self.attended = nn.Linear(times, 1, bias=False)
        self.dropout = Dropout(dropout)
        for linear in (self.features, self.attending, self.attended):
            nn.init.xavier_uniform_(linear.weight)  # Glorot, as in Veličković et al.

    def forward(self, eeg: Tensor) -> Tensor:
        """Mix the channels of EEG of shape (batch, channels, times); the shape stays."""
        features = self.features(eeg)
        return eeg + self.dropout(self._weights(features) @ features)

    def attention(self, eeg: Tensor) -> Tensor:
        """Return the weights, (batch, channels, channels); row: the channel that attends."""
        return self._weights(self.features(eeg))

    def _weights(self, features: Tensor) -> Tensor:
        # A column (batch, channels, 1) and a row (batch, 1, channels) span the pairs.
        scores = self.attending(features) + self.attended(features).transpose(1, 2)
        return functional.leaky_relu(scores, SLOPE).softmax(2)


class _AttendingNICE(NICE):
    """NICE behind a module that lets the channels attend to each other.

    Parameters
    ----------
    channels, times, dim, filters : int
        As for `nice_demo.encoders.nice.NICE`.
    dropout : float
        NICE's own.
    attention_dropout : float
        Probability, of each sample that attention adds to the EEG.

    Raises
    ------
    InputError
        For fewer than 75 samples or less than one channel.
    """

    attending_module: type[nn.Module]  # made of (times, dropout); has `attention`

    def __init__(
        self,
        channels: int = 63,
        times: int = 250,
        dim: int = 768,
        filters: int = 40,
        dropout: float = 0.5,
        attention_dropout: float = 0.3,
    ) -> None:
        super().__init__(channels, times, dim, filters, dropout)
        self.config["attention_dropout"] = attention_dropout
        self.attend = self.attending_module(times, attention_dropout)

    def forward(self, eeg: Tensor) -> Tensor:
        """Embed EEG of shape (batch, channels, times) as (batch, dim); see `NICE.forward`."""
        return super().forward(self.attend(eeg))

    def attention(self, eeg: Tensor) -> Tensor:
        """Return how much each channel attends to each.

        Parameters
        ----------
        eeg : Tensor of shape (batch, channels, times)

        Returns
        -------
        Tensor of shape (batch, channels, channels)
            Row: the channel that attends; column: the one attended to. Each row sums to 1, so what
            a channel receives is the mean of its column.
        """
        return self.attend.attention(eeg)


class NICESA(_AttendingNICE):
    """NICE behind self-attention over channels; parameters as of `_AttendingNICE`."""

    attending_module = SelfAttention


class NICEGA(_AttendingNICE):
    """NICE behind graph attention over channels; parameters as of `_AttendingNICE`."""

    attending_module = GraphAttention
