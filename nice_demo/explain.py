"""Which part of a trial's EEG made it similar to a candidate, and how far to trust such a map.

In flow an encoder and a `Question`: the EEG, a candidate's embedding. Out flows a `Map`. What is
explained is always the *target*: the cosine between the encoder's embedding of the EEG and the
candidate's, without logit scale or softmax. It says nothing of the other candidates; to ask what
sets one apart, give its embedding minus the gallery's mean as the candidate.

Beside each map belongs `sanity_check`: the same map of an encoder that has learned nothing. Where
the truth is known, as for phantoms, `score` says how well a map finds it.

Encoders see whitened EEG. There a channel is a mixture, centred on the electrode, of all electrodes
(Σ^(−1/2) of the noise), so that all maps but "pattern" say which *input* the encoder uses, not
where its sources show: a channel may matter because it carries noise to be subtracted (Haufe et
al., "On the interpretation of weight vectors", NeuroImage 2014). "pattern" undoes the whitening.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MethodType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nice_demo.bundle import Bundle
from nice_demo.decode import Decoding
from nice_demo.encoders import encoder_name
from nice_demo.encoders.nice import KERNEL, NICE, POOL, STRIDE, LiteralNICE
from nice_demo.errors import InputError
from nice_demo.montage import REGIONS

WINDOW = 0.04  # s, set to zero at once by "occlusion by window"
# At how many points integrated gradients take the gradient, and the power of their even spacing:
# the higher, the closer to silence they lie. The first that suffices is taken.
Paths = Sequence[tuple[int, int]]
PATHS = ((16, 1), (64, 2))
# Where somebody waits: 8 points sufficed in 34 of 36 views by nice, and in none of 24 by nice-sa.
QUICK_PATHS = ((8, 1), *PATHS)
# For random weights these do: the rank correlation of their map with another is what it is with 64
# points, on phantoms to 0.001, of nice-sa to 0.004.
UNTRAINED_PATHS = ((4, 1),)
MISSED = 1e-3  # a cosine: by how much the shares may miss their sum
NEIGHBOURS = 0.05  # m: electrodes nearer than this are neighbours; they stand about 0.037 apart


@dataclass(frozen=True)
class Question:
    """What is to be explained: why this EEG is as similar to this candidate as it is.

    Attributes
    ----------
    eeg : array of shape (n_channels, n_times)
        As the encoder takes it: whitened.
    candidate : array of shape (dim,)
        Embedding, of any length but 0.
    channels : sequence of str
    sfreq : float
        Hz.
    tmin : float
        Time of the first sample, s.
    whitening : array of shape (n_sessions, n_channels, n_channels) or None
        What whitened the EEG, where known; "pattern" needs it.

    Raises
    ------
    InputError
        Where shapes don't fit, or a value is NaN or infinite.
    """

    eeg: np.ndarray
    candidate: np.ndarray
    channels: Sequence[str]
    sfreq: float = 250.0
    tmin: float = 0.0
    whitening: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.eeg.ndim != 2 or len(self.eeg) != len(self.channels) or not self.eeg.size:
            raise InputError(
                f"EEG of shape {self.eeg.shape} can't be explained with {len(self.channels)} "
                "channel names; give one row for each channel and at least one sample."
            )
        if not (np.isfinite(self.eeg).all() and np.isfinite(self.candidate).all()):
            raise InputError("The EEG or the candidate holds NaN or infinity; compute it anew.")
        if self.candidate.ndim != 1 or not self.candidate.any():
            raise InputError("The candidate must be one embedding that isn't zero.")

    @classmethod
    def of(cls, bundle: Bundle, decoding: Decoding, candidate: int | None = None) -> "Question":
        """Ask about a decoded trial and a row of the gallery; None for the picture that was seen.

        Raises
        ------
        InputError
            Where the decoding came without EEG.
        """
        if decoding.evoked is None:
            raise InputError("There is no EEG behind these embeddings; open a bundle with EEG.")
        row = decoding.condition if candidate is None else candidate
        return cls(
            decoding.evoked.eeg,
            bundle.gallery.embeddings[row],
            bundle.montage.names,
            float(bundle.manifest["sfreq"]),
            whitening=bundle.trials(decoding.subject).whitening,
        )

    @property
    def times(self) -> np.ndarray:
        """Of the samples, s."""
        return self.tmin + np.arange(self.eeg.shape[1]) / self.sfreq


@dataclass(frozen=True)
class Map:
    """An explanation: a value for each channel, each sample, or each of both.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    values : array of shape (n_channels, n_times), (n_channels,) or (n_times,)
        Positive where the EEG speaks for the candidate, negative where against it; "attention",
        and Grad-CAM, which cuts the negative off, know no against.
    unit : str
    channels : list of str or None
        None where the map doesn't tell channels apart.
    times : array of shape (n_times,) or None
        s; None where the map doesn't tell samples apart.
    error : float or None
        Of "integrated gradients": the sum of the values minus what it should be, the target of
        the EEG minus that of silence; a cosine.
    """

    kind: str
    values: np.ndarray
    unit: str
    channels: list[str] | None
    times: np.ndarray | None
    error: float | None = None

    def over_channels(self) -> np.ndarray | None:
        """Return the mean size (absolute value) over time, (n_channels,)."""
        if self.channels is None:
            return None
        return np.abs(self.values).reshape(len(self.channels), -1).mean(1)

    def over_time(self) -> np.ndarray | None:
        """Return the mean size (absolute value) over channels, (n_times,)."""
        if self.times is None:
            return None
        return np.abs(self.values).reshape(-1, len(self.times)).mean(0)


def average(maps: Sequence[Map]) -> Map:
    """Average the sizes (absolute values) of maps of one kind over trials."""
    return replace(maps[0], values=np.mean([np.abs(m.values) for m in maps], 0), error=None)


# ---------------------------------------------------------------- the target


def similarity_to(candidate: np.ndarray, encoder: nn.Module, eeg: Tensor) -> Tensor:
    """Compute the target: the cosine of each trial's embedding with the candidate.

    Parameters
    ----------
    candidate : array of shape (dim,)
    encoder : Module
    eeg : Tensor of shape (batch, n_channels, n_times)

    Returns
    -------
    Tensor of shape (batch,)
    """
    wanted = torch.as_tensor(candidate, dtype=eeg.dtype)
    return functional.cosine_similarity(encoder(eeg), wanted[None], dim=1)


def _tensor(question: Question) -> Tensor:
    return torch.as_tensor(question.eeg, dtype=torch.float32)[None]


# ---------------------------------------------------------------- one function for each kind


def _attention(encoder: nn.Module, question: Question) -> np.ndarray:
    """Attention that each channel receives, averaged over all that attend: 1 in sum.

    It doesn't know of the candidate, nor of what the encoder does with the channel afterwards.
    """
    if not hasattr(encoder, "attention"):
        raise InputError(
            f"The encoder {_name(encoder)} has no attention; choose nice-sa or nice-ga, "
            "or another map."
        )
    with torch.no_grad():
        return encoder.attention(_tensor(question))[0].mean(0).numpy()


def _grad_cam(encoder: nn.Module, question: Question, by_place: bool = False) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) on the activity in front of the spatial convolution.

    There NICE still has filters × channels × tokens; afterwards channels are mixed. In the order
    in which `NICE` computes, no layer ends there, so a copy computes in the order of the paper.
    A token sees 75 samples (300 ms): the map is drawn at the token's middle, interpolated between
    tokens, and constant before the first and after the last. Batch normalisation and ELU make the
    activity differ from 0 even where the EEG is 0: silence isn't blank in this map. Behind
    attention (nice-sa, nice-ga) a channel here has others mixed in.

    A filter's weight is its gradient averaged over channels and tokens. That suits a network that
    treats all places alike, and this one doesn't: the spatial convolution has a weight for each
    channel. Without the average, each place keeps its own gradient ("Grad-CAM by place": HiResCAM,
    Draelos and Carin 2020).
    """
    literal = deepcopy(encoder)
    stack = next((module for module in literal.modules() if isinstance(module, NICE)), None)
    if stack is None:
        raise InputError(
            f"The encoder {_name(encoder)} has no convolution over channels and time for Grad-CAM; "
            "choose integrated gradients."
        )
    stack.temporal_spatial = MethodType(LiteralNICE.temporal_spatial, stack)
    seen = []
    stack.spatial.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    target = similarity_to(question.candidate, literal, _tensor(question))
    gradient = torch.autograd.grad(target.sum(), seen[0])[0][0]  # (filters, channels, tokens)
    weight = gradient if by_place else gradient.mean((1, 2), keepdim=True)
    cam = (weight * seen[0][0]).sum(0).relu().detach().numpy()
    middles = STRIDE * np.arange(cam.shape[1]) + (KERNEL + POOL - 2) / 2
    samples = np.arange(question.eeg.shape[1])
    return np.stack([np.interp(samples, middles, row) for row in cam])


def _grad_cam_by_place(encoder: nn.Module, question: Question) -> np.ndarray:
    return _grad_cam(encoder, question, by_place=True)


def _gradient(encoder: nn.Module, question: Question, share: np.ndarray, weight: np.ndarray):
    """Average the target's gradient at several shares of the EEG: Tensor (n_channels, n_times)."""
    share = torch.as_tensor(share, dtype=torch.float32)
    eeg = (share[:, None, None] * _tensor(question)).requires_grad_()
    target = similarity_to(question.candidate, encoder, eeg)
    gradient = torch.autograd.grad(target.sum(), eeg)[0]
    return torch.einsum("s,sct->ct", torch.as_tensor(weight, dtype=torch.float32), gradient).numpy()


def _path_gradient(
    encoder: nn.Module, question: Question, paths: Paths
) -> tuple[np.ndarray, float]:
    """Average the gradient on the straight way from silence to the EEG (Gauss–Legendre).

    Gradient × EEG should sum up to the target of the EEG minus that of silence. 16 points suffice
    for that, but for nice-sa, whose layer normalisation makes almost all of its way close to
    silence: on phantoms they left the sum wrong by up to 0.12, 64 points by 0.0004.

    Returns
    -------
    gradient : array of shape (n_channels, n_times)
    error : float
        By how much the sum is wrong.
    """
    whole = occlusion(encoder, question, np.ones((1, 1, 1), bool))[0]
    for points, power in paths:
        nodes, weights = np.polynomial.legendre.leggauss(points)
        t = (nodes + 1) / 2
        gradient = _gradient(encoder, question, t**power, power * t ** (power - 1) * weights / 2)
        error = float((question.eeg * gradient).sum(dtype=float) - whole)
        if abs(error) < MISSED:
            break
    return gradient, error


def _integrated_gradients(
    encoder: nn.Module, question: Question, paths: Paths
) -> tuple[np.ndarray, float]:
    """Integrated gradients (Sundararajan et al. 2017) from silence, the mean of whitened EEG."""
    gradient, error = _path_gradient(encoder, question, paths)
    return question.eeg * gradient, error


def _gradient_times_input(encoder: nn.Module, question: Question) -> np.ndarray:
    return question.eeg * _gradient(encoder, question, np.ones(1), np.ones(1))


def _pattern(encoder: nn.Module, question: Question, paths: Paths) -> np.ndarray:
    """Turn the gradient, a filter, into what its source looks like in volts (Haufe et al. 2014).

    Pattern = covariance × filter. The EEG is whitened, x = Σ^(−1/2) v: the filter on volts v is
    Σ^(−1/2) g, its pattern Σ Σ^(−1/2) g = Σ^(1/2) g. Exact for linear encoders; for others g is
    the gradient averaged from silence to the EEG. It is the map of a source, not a share of the
    target, so its size has no meaning.
    """
    if question.whitening is None:
        raise InputError(
            "The whitening of this EEG isn't known, so that no pattern can be had; "
            "choose integrated gradients."
        )
    unwhiten = np.linalg.inv(np.mean(question.whitening, 0, dtype=float))
    return unwhiten @ _path_gradient(encoder, question, paths)[0]


def occlusion(encoder: nn.Module, question: Question, parts: np.ndarray) -> np.ndarray:
    """Measure how far the target falls when parts of the EEG are set to zero, each alone.

    Parameters
    ----------
    encoder : Module
    question : Question
    parts : array of shape (n_parts, n_channels, n_times), bool
        Or any shape that broadcasts to it; True where a part is.

    Returns
    -------
    array of shape (n_parts,)
        Positive: without the part the EEG is less similar to the candidate.
    """
    eeg = _tensor(question)
    with torch.no_grad():
        whole_and_without = torch.cat([eeg, eeg * ~torch.as_tensor(parts)])
        target = similarity_to(question.candidate, encoder, whole_and_without)
    return (target[0] - target[1:]).numpy()


def _occlusion_by_channel(encoder: nn.Module, question: Question) -> np.ndarray:
    return occlusion(encoder, question, np.eye(len(question.channels), dtype=bool)[:, :, None])


def _occlusion_by_region(encoder: nn.Module, question: Question) -> np.ndarray:
    """Give each channel what its whole region does."""
    region = {name: region for region, names in REGIONS.items() for name in names}
    unknown = [name for name in question.channels if name not in region]
    if unknown:
        raise InputError(
            f"No region is known for {', '.join(unknown)}; choose occlusion by channel."
        )
    parts, which = _parts([region[name] for name in question.channels])
    return occlusion(encoder, question, parts[:, :, None])[which]


def _occlusion_by_window(encoder: nn.Module, question: Question) -> np.ndarray:
    """Give each sample what its whole window of 40 ms does."""
    # A thousandth of a sample more, so that rounding moves no sample into the window before.
    since_start = (np.arange(question.eeg.shape[1]) + 1e-3) / question.sfreq
    parts, which = _parts(since_start // WINDOW)
    return occlusion(encoder, question, parts[:, None])[which]


def _parts(group: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Turn each entry's group into (n_groups, n_entries) bool, and which row an entry is in."""
    groups, which = np.unique(group, return_inverse=True)
    return which == np.arange(len(groups))[:, None], which


_COSINE = "cosine similarity"
_Values = np.ndarray | tuple[np.ndarray, float]  # alone, or with their error
# Kind → function, unit, whether it tells channels apart, whether samples.
_METHODS: dict[str, tuple[Callable[..., _Values], str, bool, bool]] = {
    "attention": (_attention, "share of attention", True, False),
    "grad-cam": (_grad_cam, "arbitrary", True, True),
    "grad-cam by place": (_grad_cam_by_place, "arbitrary", True, True),
    "occlusion by channel": (_occlusion_by_channel, _COSINE, True, False),
    "occlusion by region": (_occlusion_by_region, _COSINE, True, False),
    "occlusion by window": (_occlusion_by_window, _COSINE, False, True),
    "integrated gradients": (_integrated_gradients, _COSINE, True, True),
    "gradient × input": (_gradient_times_input, _COSINE, True, True),
    "pattern": (_pattern, "arbitrary", True, True),
}
KINDS = tuple(_METHODS)
_ALONG_PATH = (_integrated_gradients, _pattern)


def explain(kind: str, encoder: nn.Module, question: Question, paths: Paths = PATHS) -> Map:
    """Make a map.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    encoder : Module
        In evaluation mode.
    question : Question
    paths : sequence of (int, int)
        As `PATHS`, for the kinds that take gradients on the way from silence to the EEG.

    Returns
    -------
    Map

    Raises
    ------
    InputError
        Where there is no such kind, this encoder or EEG can't have it, or they don't fit.
    """
    if kind not in _METHODS:
        raise InputError(f"There is no map {kind!r}; choose one of {', '.join(KINDS)}.")
    _check_fit(encoder, question)
    method, unit, has_channels, has_times = _METHODS[kind]
    given = (encoder, question, paths) if method in _ALONG_PATH else (encoder, question)
    values = method(*given)
    values, error = values if isinstance(values, tuple) else (values, None)
    return Map(
        kind,
        values,
        unit,
        list(question.channels) if has_channels else None,
        question.times if has_times else None,
        error,
    )


def _check_fit(encoder: nn.Module, question: Question) -> None:
    takes = encoder.config["channels"], encoder.config["times"], encoder.config["dim"]
    given = *question.eeg.shape, *question.candidate.shape
    if takes != given:
        raise InputError(
            "The encoder takes {} channels × {} samples and embeds in {} dimensions, not {} × {} "
            "and {}; take EEG and candidate of its own bundle.".format(*takes, *given)
        )


def _name(encoder: nn.Module) -> str:
    try:
        return encoder_name(encoder)
    except StopIteration:  # not one of ours
        return type(encoder).__name__


# ---------------------------------------------------------------- sanity


@dataclass(frozen=True)
class SanityCheck:
    """A map beside the same map of an encoder that has learned nothing.

    Attributes
    ----------
    randomised : Map
        Of the untrained encoder.
    correlation : float
        Spearman's, between the values of both maps. Near 1: the map shows the EEG or the
        architecture, not what was learned. NaN where either is the same everywhere. "occlusion by
        region" has but five values, whose correlation may be large by accident.
    correlation_of_sizes : float
        The same of absolute values. The stricter test: where the EEG is large, the product of EEG
        and any gradient is, but with a random sign.
    """

    randomised: Map
    correlation: float
    correlation_of_sizes: float


def randomised(encoder: nn.Module, seed: int = 0) -> nn.Module:
    """Make an encoder of the same kind and size with the weights that training starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(encoder)(**encoder.config).eval()


def sanity_check(found: Map, encoder: nn.Module, question: Question, seed: int = 0) -> SanityCheck:
    """Compare a map with that of randomised weights.

    The test of model parameters of Adebayo et al., "Sanity checks for saliency maps", NeurIPS
    2018, with all layers randomised at once.

    Parameters
    ----------
    found : Map
        What `explain` made of `encoder` and `question`.
    encoder : Module
    question : Question
    seed : int
        Of the random weights.
    """
    other = explain(found.kind, randomised(encoder, seed), question)
    return SanityCheck(
        other,
        rank_correlation(found.values, other.values),
        rank_correlation(np.abs(found.values), np.abs(other.values)),
    )


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation over all entries; NaN where one is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    from scipy.stats import spearmanr  # here: the page needn't wait for it to start

    return float(spearmanr(one, other, axis=None).statistic)


# ---------------------------------------------------------------- truth


@dataclass(frozen=True)
class Score:
    """How well a map finds where and when the EEG truly depends on the picture.

    Attributes
    ----------
    channels : float or None
        Spearman's correlation over channels between the map's mean size over time and the true
        map. By chance 0. None where the map doesn't tell channels apart, as for the next four.
    to_nearest, to_strongest : float or None
        Localisation error, mm: straight distance from the electrode where the map is largest (the
        mean over those that tie) to the nearest of the true peaks, and to the largest of them. A
        true peak is an electrode where the true map is larger than at all neighbours (nearer than
        `NEIGHBOURS`), and at least half its maximum.
    chance_to_nearest, chance_to_strongest : float or None
        The same from an electrode drawn at random, mm.
    times : float or None
        Spearman's correlation over time between the map's mean size over channels and the true
        time course. By chance 0. None where the map doesn't tell samples apart.
    """

    channels: float | None
    to_nearest: float | None
    to_strongest: float | None
    chance_to_nearest: float | None
    chance_to_strongest: float | None
    times: float | None


@dataclass(frozen=True)
class Truth:
    """Where and when the EEG depends on the picture: the response's SD over the test pictures.

    The response is that without noise. Maps are to be compared with it in their own space: see
    `of`. Not all that depends on the picture can be of use to an encoder, which is to say what
    the picture's *embedding* is: what early visual cortex makes of contrasts it may well ignore.

    Attributes
    ----------
    volts : array of shape (n_channels, n_times)
        V against Fz, from 0 s on: what the sources look like.
    whitened : array of shape (n_channels, n_times)
        Of the response as encoders see it, each picture's multiplied by Σ^(−1/2); the unit is
        about the noise's SD in a trial. Where noise is strong, there is less of it than in volts.
    """

    volts: np.ndarray
    whitened: np.ndarray

    def of(self, kind: str) -> np.ndarray:
        """Return the truth in the space of this kind of map: volts for "pattern", else whitened."""
        return getattr(self, space_of(kind))


def space_of(kind: str) -> str:
    """Return in which space a kind of map lives: "volts" or "whitened"."""
    return "volts" if kind == "pattern" else "whitened"


def open_truth(bundle: Bundle, subject: str) -> Truth:
    """Compute what is known of a phantom subject.

    Raises
    ------
    InputError
        Where nothing is known, as of real subjects.
    """
    trials = bundle.trials(subject)
    responses = trials.responses()
    if responses is None:
        raise InputError(
            f"Nobody knows the true sources of subject {subject} in {bundle.name}; "
            "only of phantom subjects they are known."
        )
    # The mean over sessions: all have as many test trials.
    whitened = np.mean(trials.whitening, 0, dtype=float) @ responses
    return Truth(responses.std(0), whitened.std(0))


def score(found: Map, truth: np.ndarray, positions: np.ndarray) -> Score:
    """Compare a map with the truth.

    A single trial's map shows what was in that trial, the truth what is in all: `average` the
    maps of many trials first. And score the maps of `randomised` weights beside them: where the
    EEG is large they are large too, and "pattern" mostly shows where the noise is, whatever was
    learned.

    Parameters
    ----------
    found : Map
    truth : array of shape (n_channels, n_times)
        See `Truth.of`; the map's channels and samples. Its root mean square over time is the true
        map, over channels the true time course; see `summary`.
    positions : array of shape (n_channels, 3)
        Of the electrodes, m.

    Returns
    -------
    Score
        A correlation is NaN where the map is the same everywhere.

    Raises
    ------
    InputError
        Where shapes don't fit.
    """
    over_channels, over_time = found.over_channels(), found.over_time()
    channels = len(positions if over_channels is None else over_channels)
    times = truth.shape[1] if over_time is None else len(over_time)
    if truth.shape != (channels, times) or positions.shape != (channels, 3):
        raise InputError(
            f"A truth of shape {truth.shape} and positions of shape {positions.shape} don't fit a "
            f"map of shape {found.values.shape}; give those of the map's channels and samples."
        )
    scored = Score(None, None, None, None, None, None)
    if over_time is not None:
        scored = replace(scored, times=rank_correlation(over_time, summary(truth)[1]))
    if over_channels is not None:
        strength = summary(truth)[0]
        distance = 1000 * np.linalg.norm(positions[:, None] - positions, axis=2)  # mm
        to_nearest = distance[:, _peaks(strength, distance)].min(1)  # from each electrode
        to_strongest = distance[:, strength.argmax()]
        peak = over_channels == over_channels.max()
        scored = replace(
            scored,
            channels=rank_correlation(over_channels, strength),
            to_nearest=float(to_nearest[peak].mean()),
            to_strongest=float(to_strongest[peak].mean()),
            chance_to_nearest=float(to_nearest.mean()),
            chance_to_strongest=float(to_strongest.mean()),
        )
    return scored


def summary(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the true map (n_channels,) and time course (n_times,) of (n_channels, n_times)."""
    power = np.square(truth)
    return np.sqrt(power.mean(1)), np.sqrt(power.mean(0))


def _peaks(values: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return which electrodes are true peaks (see `Score`), (n_channels,) bool."""
    neighbours = distance < 1000 * NEIGHBOURS  # each is its own
    largest_around = np.where(neighbours, values, -np.inf).max(1)
    return (values == largest_around) & (values >= values.max() / 2)
