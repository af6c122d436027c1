"""Attention over channels: against slow oracles, and against the faults of the published code.

Whatever holds for every encoder, tests/test_nice.py holds against these two as well.
"""

import math

import pytest
import torch

from nice_demo.encoders import build, halved, open_encoder, save_encoder
from nice_demo.encoders.nice import NICE
from nice_demo.encoders.spatial import GraphAttention, SelfAttention

SIZES = [(8, 100), (17, 250), (63, 250)]
MODULES = {"self": SelfAttention, "graph": GraphAttention}
SCORERS = {"self": ["query", "key"], "graph": ["attending", "attended"]}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=MODULES)
def kind(request):
    return request.param


def module_of(kind, times, dropout=0.0):
    """Make a module, in float64 and with no weight where a mistake wouldn't show."""
    torch.manual_seed(1)
    module = MODULES[kind](times, dropout).double()
    if kind == "self":
        with torch.no_grad():
            module.norm.weight.add_(0.3 * normal(times, seed=2))
            module.norm.bias.add_(0.3 * normal(times, seed=3))
    return module


# ---------------------------------------------------------------- slow oracles


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def slow_self(module, trial):
    """Return attention and output of one trial (channels × times), number by number."""
    values = []
    for course in trial:
        deviation = (course.var(unbiased=False) + 1e-5).sqrt()
        values.append((course - course.mean()) / deviation * module.norm.weight + module.norm.bias)
    queries = [module.query.weight @ value for value in values]
    keys = [module.key.weight @ value for value in values]
    attention = [softmax([float(q @ k) / 8 for k in keys]) for q in queries]  # 8 = √64
    return attention, values


def slow_graph(module, trial):
    values = [module.features.weight @ course for course in trial]
    attention = []
    for own in values:
        scores = []
        for other in values:
            pair = torch.cat([own, other])
            vector = torch.cat([module.attending.weight[0], module.attended.weight[0]])
            score = float(vector @ pair)
            scores.append(score if score > 0 else 0.2 * score)
        attention.append(softmax(scores))
    return attention, values


@pytest.mark.parametrize(("channels", "times"), [(1, 75), *SIZES])
@torch.no_grad()
def test_same_numbers_as_the_slow_oracle(kind, channels, times):
    module, eeg = module_of(kind, times), 1.5 * normal(3, channels, times) + 0.2
    slow = {"self": slow_self, "graph": slow_graph}[kind]
    attention, out = module.attention(eeg), module(eeg)
    assert attention.shape == (3, channels, channels)
    assert out.shape == eeg.shape
    for trial, found_attention, found_out in zip(eeg, attention, out, strict=True):
        weights, values = slow(module, trial)
        for row in range(channels):
            wanted = trial[row].clone()
            for column in range(channels):
                wanted += weights[row][column] * values[column]
            torch.testing.assert_close(found_out[row], wanted, rtol=0, atol=1e-6)
        weights = torch.tensor(weights, dtype=torch.float64)
        torch.testing.assert_close(found_attention, weights, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- the published faults


def published_self(module, eeg, einsum="bocs,bocm->bocs"):
    """Apply attention as the authors' code writes it, to values (batch, 1, channels, times)."""
    values = module.norm(eeg)[:, None]
    queries, keys = module.query(values), module.key(values)
    scores = torch.einsum("bocs,boms->bocm", queries, keys) / 8
    return torch.einsum(einsum, values, scores.softmax(-1))[:, 0]


def test_published_self_attention_is_the_identity_and_ours_is_not():
    module, eeg = module_of("self", 100), normal(4, 8, 100)
    values = module.norm(eeg).detach()
    published = published_self(module, eeg)
    torch.testing.assert_close(published.detach(), values, rtol=0, atol=1e-13)
    (published * normal(*eeg.shape, seed=4)).sum().backward()
    noise = module.query.weight.grad.abs().max() / module.norm.weight.grad.abs().max()
    assert noise < 1e-12

    # Had only the einsum been right, it would have been ours.
    ours = module(eeg) - eeg
    intended = published_self(module, eeg, "boms,bocm->bocs")
    torch.testing.assert_close(ours, intended, rtol=0, atol=1e-12)
    assert (ours - values).abs().mean() > 0.3


def published_graph(module, eeg):
    """Pass messages as the authors' code does: nodes of all samples, edges of the first one's."""
    batch, channels, times = eeg.shape
    nodes = module.features(eeg.reshape(batch * channels, times))
    attention = torch.eye(batch * channels, dtype=eeg.dtype)  # a node always attends to itself
    attention[:channels, :channels] = module.attention(eeg)[0]
    return eeg + (attention @ nodes).view(eeg.shape)


def place_matters(apply, eeg):
    """Tell whether a sample's output depends on its place in the batch or on its neighbours."""
    whole, order = apply(eeg), torch.randperm(len(eeg), generator=torch.Generator().manual_seed(5))
    others = torch.cat([eeg[:1], 100 * normal(*eeg[1:].shape, seed=6)])
    found = [
        (apply(eeg[order]), whole[order]),
        (torch.cat([apply(one[None]) for one in eeg]), whole),
        (apply(others)[:1], whole[:1]),
        (apply(others.flip(0))[-1:], whole[:1]),
    ]
    return not all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in found)


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_place_and_neighbours_do_not_matter(kind, training):
    module, eeg = module_of(kind, 100).train(training), normal(5, 8, 100)
    assert not place_matters(module, eeg)
    assert not place_matters(module.attention, eeg)


@torch.no_grad()
def test_place_matters_in_the_published_graph():
    module, eeg = module_of("graph", 100), normal(5, 8, 100)
    assert place_matters(lambda some: published_graph(module, some), eeg)
    assert torch.allclose(published_graph(module, eeg)[0], module(eeg)[0])
    assert not torch.allclose(published_graph(module, eeg)[1], module(eeg)[1], atol=0.1)


@pytest.mark.parametrize("name", ["nice-sa", "nice-ga"])
@torch.no_grad()
def test_place_and_neighbours_do_not_matter_to_the_encoder(name):
    encoder = build(name, channels=8, times=100, dim=12).double().eval()
    assert not place_matters(encoder, normal(5, 8, 100))


@torch.no_grad()
def test_output_depends_on_queries_and_keys(kind):
    module, eeg = module_of(kind, 100), normal(4, 8, 100)
    before = module(eeg)
    for name in SCORERS[kind]:
        weight = getattr(module, name).weight
        kept = weight.clone()
        weight.copy_(0.3 * normal(*weight.shape, seed=7))
        change = (module(eeg) - before).abs().amax((1, 2))
        assert (change > 0.05).all(), name  # in every sample
        weight.copy_(kept)


def test_gradients_of_queries_and_keys_are_no_rounding_noise(kind):
    module, eeg = module_of(kind, 100), normal(4, 8, 100)
    weights = normal(*eeg.shape, seed=8)
    (module(eeg) * weights).sum().backward()
    largest = max(parameter.grad.norm() for parameter in module.parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad.norm() > 1e-2 * largest, name
        # The gradient is the slope that one measures by going along it.
        direction, step = parameter.grad / parameter.grad.norm(), 1e-5
        ends = []
        with torch.no_grad():
            for sign in (1, -2, 1):  # there, as far to the other side, and back
                parameter.add_(sign * step * direction)
                ends.append((module(eeg) * weights).sum())
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(slope, parameter.grad.norm(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_permuted_channels_permute_attention_and_output(kind):
    module, eeg = module_of(kind, 100), normal(4, 17, 100)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(9))
    permuted = module.attention(eeg)[:, order][:, :, order]
    torch.testing.assert_close(module.attention(eeg[:, order]), permuted, rtol=0, atol=1e-12)
    torch.testing.assert_close(module(eeg[:, order]), module(eeg)[:, order], rtol=0, atol=1e-12)


# ---------------------------------------------------------------- attention that can be foretold


@torch.no_grad()
def test_row_attends_to_column():
    """Let whoever carries a sine look for a cosine, and channel 2 carry the one, 5 the other."""
    module = SelfAttention(100, 0.0)
    turn = torch.linspace(0, 6 * math.pi, 100)
    for linear, pattern in ((module.query, turn.sin()), (module.key, turn.cos())):
        linear.weight.zero_()
        linear.weight[0] = pattern
    eeg = 0.1 * torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(10))
    eeg[0, 2] += turn.sin()
    eeg[0, 5] += turn.cos()
    attention = module.attention(eeg)[0]
    assert attention[2, 5] > 0.99
    assert attention[5, 2] < 0.5


@torch.no_grad()
def test_row_attends_to_column_of_the_graph():
    module = GraphAttention(100, 0.0)
    pattern = torch.linspace(0, 6 * math.pi, 100).sin()
    module.features.weight.copy_(torch.eye(100))
    module.attending.weight.zero_()
    module.attended.weight.copy_(pattern)
    eeg = 0.1 * torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(10))
    eeg[0, 5] += pattern
    assert (module.attention(eeg)[0, :, 5] > 0.99).all()
    # All channels rank the others alike, as the docstring warns.
    module = GraphAttention(100, 0.0)
    ranking = module.attention(torch.randn(4, 17, 100)).argsort(2)
    assert (ranking == ranking[:, :1]).all()


@torch.no_grad()
def test_attention_at_the_start_neither_uniform_nor_on_one_channel(kind):
    torch.manual_seed(11)
    attention = MODULES[kind](250, 0.3).attention(torch.randn(20, 63, 250))
    channels_attended = (-(attention * attention.log()).sum(2)).exp()  # as if equally
    assert 10 < channels_attended.mean() < 60


# ---------------------------------------------------------------- the encoders


@pytest.mark.parametrize(("channels", "times"), SIZES)
@pytest.mark.parametrize("name", ["nice-sa", "nice-ga"])
def test_any_montage_and_length(name, channels, times):
    torch.manual_seed(12)
    encoder = build(name, channels=channels, times=times, dim=16)
    eeg = torch.randn(3, channels, times)
    for training in (True, False):
        encoder.train(training)
        assert encoder(eeg).shape == (3, 16)
        attention = encoder.attention(eeg).detach()
        assert attention.shape == (3, channels, channels)
        assert (attention > 0).all()
        torch.testing.assert_close(attention.sum(2), torch.ones(3, channels))
    encoder.attend.eval()
    torch.testing.assert_close(encoder(eeg), NICE.forward(encoder, encoder.attend(eeg)))


@pytest.mark.parametrize("name", ["nice-sa", "nice-ga"])
def test_encoder_starts_from_the_same_nice(name):
    """Whoever compares them with plain NICE compares pairs of the same seed."""
    torch.manual_seed(13)
    plain = build("nice", channels=8, times=100, dim=16).state_dict()
    torch.manual_seed(13)
    ours = build(name, channels=8, times=100, dim=16).state_dict()
    for key, value in plain.items():
        assert torch.equal(ours.pop(key), value), key
    assert ours
    assert all(key.startswith("attend.") for key in ours)


@pytest.mark.parametrize("name", ["nice-sa", "nice-ga"])
def test_dropout_of_what_attention_adds(name):
    encoder = build(name, channels=8, times=100, dim=16)
    assert encoder.config["dropout"] == 0.5
    assert encoder.config["attention_dropout"] == encoder.attend.dropout.p == 0.3
    assert build(name, attention_dropout=0.1).attend.dropout.p == 0.1
    torch.manual_seed(14)
    eeg = torch.randn(20, 8, 100)
    dropped = (encoder.attend(eeg) == eeg).float().mean((1, 2))
    assert (0.2 < dropped).all()  # in every sample
    assert (dropped < 0.4).all()
    assert not (encoder.eval().attend(eeg) == eeg).float().mean() > 0.01
    assert torch.equal(encoder.attention(eeg), encoder.train().attention(eeg))


@pytest.mark.parametrize("name", ["nice-sa", "nice-ga"])
def test_attention_survives_the_disk(name, tmp_path):
    encoder = build(name, channels=8, times=100, dim=16, attention_dropout=0.2).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    opened = open_encoder(tmp_path / "encoder.safetensors")
    assert opened.config["attention_dropout"] == 0.2
    eeg = torch.randn(3, 8, 100, generator=torch.Generator().manual_seed(15))
    before = encoder.attention(eeg).detach()
    torch.testing.assert_close(opened.attention(eeg), before, rtol=0, atol=2e-3)
    assert torch.equal(opened.attention(eeg), halved(encoder).attention(eeg))
