"""Encoders: NICE against its literal form, every encoder through the same suite, foreign files."""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentences import refuses
from sklearn.linear_model import Ridge as SklearnRidge
from torch import nn

from nice_demo.encoders import (
    ENCODERS,
    build,
    embed,
    encoder_name,
    halved,
    open_encoder,
    save_encoder,
)
from nice_demo.encoders.nice import NICE, LiteralNICE, load_published
from nice_demo.encoders.ridge import RidgeFit
from nice_demo.errors import InputError

SIZES = {"channels": 5, "times": 93, "dim": 12}


def unsettle(encoder, seed=0):
    """Give every parameter and running statistic a value that a mistake would show in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator).to(value.dtype)
            if "running_var" in name:
                value.copy_(0.02 + 0.1 * noise.abs())
            elif "norm" in name:
                value.add_(0.3 * noise)
            else:
                value.copy_(0.1 * noise)
    return encoder


def pair(dtype, **sizes):
    """Return ours and the literal stack with the same weights, the literal in float64: truth."""
    ours = unsettle(NICE(dropout=0.0, **sizes)).to(dtype)
    literal = LiteralNICE(dropout=0.0, **sizes).double()
    literal.load_state_dict(ours.state_dict())
    return ours, literal


def close(ours, literal, tolerance):
    scale = max(1.0, literal.abs().max().item())
    torch.testing.assert_close(ours.to(literal.dtype), literal, rtol=0, atol=tolerance * scale)


# ---------------------------------------------------------------- NICE against the literal stack


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 63, "times": 250, "dim": 768},
        {"channels": 1, "times": 75, "dim": 3, "filters": 2},
        {"channels": 4, "times": 123, "dim": 10, "filters": 7},
        {"channels": 17, "times": 199, "dim": 32},
    ],
    ids=lambda sizes: "x".join(map(str, sizes.values())),
)
def test_same_numbers_as_the_literal_stack(sizes, dtype, tolerance, mode):
    ours, literal = pair(dtype, **sizes)
    assert list(ours.state_dict()) == list(literal.state_dict())
    shape = 4, sizes["channels"], sizes["times"]
    eeg = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.2
    weight = torch.randn(sizes["dim"], generator=torch.Generator().manual_seed(2))
    results = []
    for encoder, kind in ((ours, dtype), (literal, torch.float64)):
        source = eeg.to(kind, copy=True).requires_grad_()
        out = encoder.train(mode == "train")(source)
        (out * weight.to(kind)).sum().backward()
        results.append((out.detach(), source.grad))
    (out, input_gradient), (literal_out, literal_input_gradient) = results
    assert out.shape == (4, sizes["dim"])
    close(out, literal_out, tolerance)
    close(input_gradient, literal_input_gradient, tolerance)
    parameters = dict(literal.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        close(parameter.grad, parameters[name].grad, tolerance)
    for name, value in ours.named_buffers():
        close(value.double(), literal.state_dict()[name].double(), tolerance)
    if mode == "train":
        assert ours.temporal_norm.num_batches_tracked == 1
        assert ours.spatial_norm.num_batches_tracked == 1


def test_running_statistics_over_several_steps():
    ours, literal = pair(torch.float64, channels=4, times=100, dim=8)
    generator = torch.Generator().manual_seed(3)
    for step in range(4):
        eeg = (step + 1) * torch.randn(6, 4, 100, generator=generator, dtype=torch.float64)
        ours(eeg), literal(eeg)
    for name, value in ours.named_buffers():
        torch.testing.assert_close(value, literal.state_dict()[name], rtol=1e-10, atol=1e-12)
    eeg = torch.randn(3, 4, 100, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(eeg), literal.eval()(eeg), rtol=1e-10, atol=1e-12)


def test_training_on_one_is_training_on_the_other():
    ours, literal = pair(torch.float64, channels=3, times=90, dim=6)
    generator = torch.Generator().manual_seed(4)
    batches = torch.randn(5, 8, 3, 90, generator=generator, dtype=torch.float64)
    wanted = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    for encoder in (ours, literal):
        # Plain gradient descent: Adam divides by gradients that are zero but for rounding.
        optimizer = torch.optim.SGD(encoder.parameters(), 0.05)
        for batch in batches:
            optimizer.zero_grad()
            ((encoder(batch) - wanted) ** 2).mean().backward()
            optimizer.step()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, literal.state_dict()[name], rtol=1e-8, atol=1e-10)


def test_dropout_where_the_paper_has_it():
    encoder = NICE(**SIZES, dropout=0.5).train()
    eeg = torch.randn(4, 5, 93)
    assert not torch.equal(encoder(eeg), encoder(eeg))
    calls = []
    encoder.dropout.register_forward_hook(lambda module, given, out: calls.append(given[0].shape))
    encoder(eeg)
    assert calls == [(4, 40, 4), (4, 12)]  # after the spatial ELU; in the residual branch


def test_published_size():
    encoder = NICE()
    assert (encoder.config["channels"], encoder.config["times"]) == (63, 250)
    assert encoder.config["dim"] == 768
    assert sum(p.numel() for p in encoder.parameters()) == 1_802_496


def test_published_initialisation():
    torch.manual_seed(0)
    encoder = NICE()
    for module in (encoder.temporal, encoder.spatial, encoder.tokens, encoder.project):
        weight = module.weight.detach()
        error = 0.02 / (2 * weight.numel()) ** 0.5  # standard error of a standard deviation
        assert abs(weight.std().item() - 0.02) < 5 * error
        assert abs(weight.mean().item()) < 5 * 0.02 / weight.numel() ** 0.5
    for norm in (encoder.temporal_norm, encoder.spatial_norm):
        assert abs(norm.weight.mean().item() - 1) < 5 * 0.02 / 40**0.5
        assert 0.01 < norm.weight.std().item() < 0.03
        assert not norm.bias.any()
    assert (encoder.norm.weight == 1).all()
    assert encoder.temporal.bias.abs().max() <= 0.2  # PyTorch's default: uniform ± 1/√25
    assert encoder.temporal.bias.std() > 0.05


@pytest.mark.parametrize(("channels", "times"), [(63, 74), (4, 1), (0, 250), (4, 0)])
def test_too_few_samples_or_channels(channels, times):
    refuses(lambda: NICE(channels, times), "75", times)


def test_fewest_samples():
    assert NICE(2, 75, 4).eval()(torch.zeros(1, 2, 75)).shape == (1, 4)


# ---------------------------------------------------------------- every encoder


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(7)
    return unsettle(build(request.param, **SIZES)).eval()


EEG = torch.randn(6, 5, 93, generator=torch.Generator().manual_seed(8))


def test_shape_and_type(encoder):
    out = encoder(EEG)
    assert out.shape == (6, 12)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()


def test_evaluation_is_deterministic(encoder):
    assert torch.equal(encoder(EEG), encoder(EEG))


def test_batch_neighbours_do_not_matter(encoder):
    alone = torch.cat([encoder(one[None]) for one in EEG])
    torch.testing.assert_close(encoder(EEG), alone, rtol=0, atol=2e-6)
    other = torch.cat([EEG[:1], 100 * EEG[3:]])
    torch.testing.assert_close(encoder(other)[0], encoder(EEG)[0], rtol=0, atol=2e-6)


def test_gradients_reach_the_input(encoder):
    eeg = EEG.clone().requires_grad_()
    encoder(eeg)[:, 0].sum().backward()
    assert torch.isfinite(eeg.grad).all()
    assert (eeg.grad.abs().amax((0, 2)) > 0).all()  # every channel


def test_config_rebuilds(encoder):
    again = build(encoder_name(encoder), **encoder.config)
    again.load_state_dict(encoder.state_dict())
    assert type(again) is type(encoder)
    assert again.config == encoder.config
    assert torch.equal(again.eval()(EEG), encoder(EEG))


def test_save_and_open(encoder, tmp_path):
    path = tmp_path / "deep" / "encoder.safetensors"
    save_encoder(encoder, path)
    assert os.listdir(path.parent) == ["encoder.safetensors"]
    stored = load_file(path)
    for name, value in encoder.state_dict().items():
        assert stored[name].dtype == (torch.float16 if value.ndim > 1 else value.dtype)
    opened = open_encoder(path)
    assert not opened.training
    assert opened.config == encoder.config
    close(opened(EEG), encoder(EEG).detach(), 0.02)
    assert torch.equal(opened(EEG), halved(encoder)(EEG))  # what `halved` promises


def test_embed_in_batches(encoder):
    whole = embed(encoder, EEG)
    np.testing.assert_allclose(np.linalg.norm(whole.numpy(), axis=1), 1, atol=1e-6)
    torch.testing.assert_close(
        embed(encoder, EEG.half().float(), batch=4), whole, rtol=0, atol=2e-3
    )
    torch.testing.assert_close(embed(encoder, EEG, batch=1), whole, rtol=0, atol=2e-6)
    assert not whole.requires_grad


def test_unknown_encoder():
    refuses(lambda: build("nize", **SIZES), "'nize'", *ENCODERS)


# ---------------------------------------------------------------- bad files


def test_missing_encoder(tmp_path):
    refuses(lambda: open_encoder(tmp_path / "no.safetensors"), tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"config": "{}"},
        {"encoder": "nice"},
        {"encoder": "{"},
        {"encoder": "[1]"},
        {"encoder": '{"channels": 5}'},
        {"encoder": '{"name": "vit"}'},
        {"encoder": '{"name": "ridge", "channels": "x"}'},
        {"encoder": '{"name": "ridge", "colour": 3}'},
        {"encoder": '{"name": "ridge", "channels": 6, "times": 93, "dim": 12}'},
        {"encoder": '{"name": "nice", "channels": 5, "times": 93, "dim": 12}'},
        {"encoder": '{"name": "nice", "channels": 5, "times": 9, "dim": 12}'},
        {"encoder": '{"name": "ridge", "channels": 99999999999999999999, "times": 93}'},
    ],
)
def test_wrong_metadata(tmp_path, metadata):
    path = tmp_path / "encoder.safetensors"
    save_file(build("ridge", **SIZES).state_dict(), path, metadata)
    refuses(lambda: open_encoder(path))


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_encoder(tmp_path, data):
    path = tmp_path / "encoder.safetensors"
    save_encoder(build("ridge", channels=2, times=20, dim=3), path)
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "random", "flip"]))
    if kind == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "random":
        damaged = data.draw(st.binary(max_size=200))
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = bytearray(whole)
        damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        open_encoder(path)
    except InputError:
        return
    assert kind == "flip"  # of a weight: still a file of weights


# ---------------------------------------------------------------- the authors' checkpoints


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x) + x


class Tokens(nn.Module):
    def forward(self, x):
        return x[:, :, 0].permute(0, 2, 1)


class Patches(nn.Module):
    """The published convolutions, module for module, so that the keys are theirs."""

    def __init__(self, channels):
        super().__init__()
        self.tsconv = nn.Sequential(
            nn.Conv2d(1, 40, (1, 25)),
            nn.AvgPool2d((1, 51), (1, 5)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Conv2d(40, 40, (channels, 1)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Dropout(0.5),
        )
        self.projection = nn.Sequential(nn.Conv2d(40, 40, (1, 1)), Tokens())

    def forward(self, eeg):
        return self.projection(self.tsconv(eeg))


def published(channels=63, tokens=36, dim=768):
    encoder = nn.Sequential(Patches(channels), nn.Flatten())
    projection = nn.Sequential(
        nn.Linear(40 * tokens, dim),
        Residual(nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(0.5))),
        nn.LayerNorm(dim),
    )
    for number, module in enumerate((encoder, projection)):
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if value.is_floating_point():
                    noise = torch.randn(value.shape, generator=generator)
                    value.copy_(0.5 + noise.abs() if "running_var" in name else 0.1 * noise)
    return encoder.eval(), projection.eval()


def store(module, path, prefix=""):
    torch.save({prefix + k: v for k, v in module.state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("sizes", [(63, 36, 768), (17, 6, 20)])
def test_published_checkpoints(tmp_path, prefix, sizes):
    encoder, projection = published(*sizes)
    assert "0.tsconv.0.weight" in encoder.state_dict()
    assert "1.fn.1.weight" in projection.state_dict()
    channels, tokens, dim = sizes
    times = 75 + 5 * (tokens - 1)
    ours = load_published(
        store(encoder, tmp_path / "Enc_eeg_cls.pth", prefix),
        store(projection, tmp_path / "Proj_eeg_cls.pth", prefix),
    )
    assert not ours.training
    assert (ours.config["channels"], ours.config["times"]) == (channels, times)
    assert ours.config["dim"] == dim
    eeg = torch.randn(3, channels, times, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        close(ours(eeg), projection(encoder(eeg[:, None])), 1e-5)


class Mine:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    encoder, projection = published(4, 2, 6)
    trace = tmp_path / "ran"
    bad, good = tmp_path / "bad.pth", store(projection, tmp_path / "good.pth")
    torch.save({**encoder.state_dict(), "extra": Mine(trace)}, bad)
    refuses(lambda: load_published(str(bad), good), bad)
    refuses(lambda: load_published(good, str(bad)), bad)
    assert not trace.exists()
    torch.load(bad, weights_only=False)  # the trap works
    assert trace.exists()


def test_checkpoints_that_do_not_fit(tmp_path):
    encoder, projection = published(4, 2, 6)
    enc, proj = store(encoder, tmp_path / "e.pth"), store(projection, tmp_path / "p.pth")
    refuses(lambda: load_published(str(tmp_path / "no.pth"), proj), "no.pth", "missing")
    refuses(lambda: load_published(enc, str(tmp_path / "no.pth")), "no.pth", "missing")
    refuses(lambda: load_published(proj, enc), enc, "encoder first")
    refuses(lambda: load_published(enc, enc), enc)
    refuses(lambda: load_published(str(tmp_path), proj), tmp_path)

    other = store(published(4, 2, 7)[1], tmp_path / "other.pth")
    mixed = torch.load(proj, weights_only=True)
    for name, change in {
        "wrong size": lambda state: state.update({"2.weight": torch.ones(7)}),
        "lacking": lambda state: state.pop("0.weight"),
        "flat": lambda state: state.update({"0.weight": torch.ones(6)}),
        "no rows": lambda state: state.update({"0.weight": torch.ones(6, 0)}),
        "too much": lambda state: state.update({"0.gain": torch.ones(6)}),
        "a number": lambda state: state.update({"2.weight": 3}),
        "numbered": lambda state: state.update({3: torch.ones(6)}),
    }.items():
        state = dict(mixed)
        change(state)
        torch.save(state, tmp_path / "mixed.pth")
        refuses(lambda: load_published(enc, str(tmp_path / "mixed.pth")))
        assert name
    load_published(enc, other)  # another size of embedding is fine
    torch.save(encoder.state_dict()["0.tsconv.0.weight"], tmp_path / "tensor.pth")
    refuses(lambda: load_published(str(tmp_path / "tensor.pth"), proj), "tensor.pth")
    (tmp_path / "text.pth").write_text("not weights")
    refuses(lambda: load_published(str(tmp_path / "text.pth"), proj), "text.pth")


# ---------------------------------------------------------------- ridge


def test_ridge_is_ridge_regression():
    rng = np.random.default_rng(10)
    eeg = rng.standard_normal((50, 3, 47)).astype(np.float32) + 2
    pictures = rng.standard_normal((50, 5)).astype(np.float32) - 1
    fit = RidgeFit(3, 47, 5)
    for part in np.array_split(np.arange(50), 7):  # unequal batches
        fit.add(torch.from_numpy(eeg[part]), torch.from_numpy(pictures[part]))
    strengths = [0.01, 1.0, 30.0]

    # The same by hand: means over 10 samples, the last 7 left out; channel by channel.
    features = np.array(
        [
            [trial[c, 10 * w : 10 * w + 10].mean() for c in range(3) for w in range(4)]
            for trial in eeg
        ],
        float,
    )
    spread = features.var(0).mean() * len(features)
    for strength, ours in zip(strengths, fit.solve(strengths), strict=True):
        oracle = SklearnRidge(alpha=strength * spread).fit(features, pictures.astype(float))
        assert not ours.training
        with torch.inference_mode():
            out = ours(torch.from_numpy(eeg)).numpy()
        np.testing.assert_allclose(out, oracle.predict(features), atol=1e-5)
        np.testing.assert_allclose(ours.linear.weight.detach(), oracle.coef_, atol=1e-5)
