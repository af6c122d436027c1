"""Maps against encoders whose answer is known by construction, and scores against made truths."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sentences import refuses
from test_nice import unsettle
from torch import nn
from torch.nn import functional

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.encoders import ENCODERS, build
from nice_demo.encoders.nice import NICE
from nice_demo.errors import InputError
from nice_demo.explain import (
    KINDS,
    QUICK_PATHS,
    UNTRAINED_PATHS,
    Map,
    Question,
    average,
    explain,
    occlusion,
    open_truth,
    randomised,
    rank_correlation,
    sanity_check,
    score,
)
from nice_demo.montage import REGIONS
from nice_demo.sources.phantom.trials import Phantom

NAMES = ["Fp1", "Cz", "P7", "O1", "O2"]
SIZES = {"channels": 5, "times": 93, "dim": 12}


class Compass(nn.Module):
    """Embeds EEG on the unit circle so that its cosine with (1, 0) is just the sum of w · EEG."""

    def __init__(self, channels=5, times=93, dim=2):
        super().__init__()
        self.config = {"channels": channels, "times": times, "dim": dim}
        self.weight = nn.Parameter(0.001 * torch.randn(channels, times))

    def forward(self, eeg):
        cosine = (self.weight * eeg).sum((1, 2))
        return 7 * torch.stack([cosine, (1 - cosine**2).sqrt()], 1)


class Attentive(Compass):
    """Attends with the same matrix whatever comes in."""

    def attention(self, eeg):
        rows = torch.arange(1.0, 26).view(5, 5)
        return (rows / rows.sum(1, keepdim=True)).expand(len(eeg), 5, 5)


def question(dim=12, seed=3, **options):
    rng = np.random.default_rng(seed)
    eeg = rng.standard_normal((5, 93)).astype(np.float32)
    return Question(eeg, rng.standard_normal(dim).astype(np.float32), NAMES, 100.0, **options)


def compass(weight=None):
    """Return the encoder, the question whose target is linear, and the target's terms."""
    torch.manual_seed(0)
    encoder = Compass().eval()
    if weight is not None:
        encoder.weight.data = torch.as_tensor(weight, dtype=torch.float32)
    asked = replace(question(2), candidate=np.array([2.0, 0.0]))
    return encoder, asked, encoder.weight.detach().numpy() * asked.eeg


def test_maps_of_a_linear_target_are_its_terms():
    encoder, asked, terms = compass()
    window = (np.arange(93) // 4).tolist()  # 40 ms at 100 Hz
    regions = [next(r for r, names in REGIONS.items() if name in names) for name in NAMES]
    expected = {
        "integrated gradients": terms,
        "gradient × input": terms,
        "occlusion by channel": terms.sum(1),
        "occlusion by region": [
            sum(terms[j].sum() for j in range(5) if regions[j] == regions[i]) for i in range(5)
        ],
        "occlusion by window": [
            sum(terms[:, j].sum() for j in range(93) if window[j] == window[i]) for i in range(93)
        ],
    }
    for kind, values in expected.items():
        found = explain(kind, encoder, asked)
        np.testing.assert_allclose(found.values, values, atol=2e-6, err_msg=kind)
        assert found.unit == "cosine similarity"
    np.testing.assert_allclose(found.times, np.arange(93) / 100)
    assert found.channels is None


def test_window_is_40_ms_at_250_hz():
    torch.manual_seed(0)
    encoder = Compass(times=250).eval()
    eeg = np.random.default_rng(0).standard_normal((5, 250)).astype(np.float32)
    asked = Question(eeg, np.array([1.0, 0.0]), NAMES, tmin=-0.1)
    values = explain("occlusion by window", encoder, asked).values
    assert [len(set(part)) for part in values.reshape(25, 10)] == [1] * 25
    assert len(set(values.tolist())) == 25


def test_maps_of_ridge_against_slow_ones():
    encoder = unsettle(build("ridge", **SIZES)).eval()
    asked = question()
    weight = encoder.linear.weight.detach().double().numpy().reshape(12, 5, 9)
    weight = np.concatenate([np.repeat(weight / 10, 10, 2), np.zeros((12, 5, 3))], 2)
    bias, candidate = encoder.linear.bias.detach().double().numpy(), asked.candidate.astype(float)

    def target(eeg):
        embedding = np.einsum("dct,ct->d", weight, eeg) + bias
        return embedding @ candidate / np.linalg.norm(embedding) / np.linalg.norm(candidate)

    def gradient(eeg):
        embedding = np.einsum("dct,ct->d", weight, eeg) + bias
        size = np.linalg.norm(embedding)
        along = candidate / np.linalg.norm(candidate) / size
        along -= target(eeg) * embedding / size**2
        return np.einsum("d,dct->ct", along, weight)

    eeg, steps = asked.eeg.astype(float), 2000
    path = sum(gradient((step + 0.5) / steps * eeg) for step in range(steps)) / steps
    np.testing.assert_allclose(
        explain("integrated gradients", encoder, asked).values, eeg * path, atol=1e-5
    )
    np.testing.assert_allclose(
        explain("gradient × input", encoder, asked).values, eeg * gradient(eeg), atol=1e-6
    )
    for channel, found in enumerate(explain("occlusion by channel", encoder, asked).values):
        without = eeg.copy()
        without[channel] = 0
        assert found == pytest.approx(target(eeg) - target(without), abs=1e-6)


def test_maps_point_to_the_only_place_an_encoder_looks_at():
    weight = np.zeros((5, 93))
    weight[3, 40:44] = 0.01
    encoder, asked, _ = compass(weight)
    for kind in ("integrated gradients", "gradient × input"):
        values = explain(kind, encoder, asked).values
        assert (values[3, 40:44] != 0).all() and np.count_nonzero(values) == 4
    assert np.flatnonzero(explain("occlusion by channel", encoder, asked).values).tolist() == [3]
    assert np.flatnonzero(explain("occlusion by region", encoder, asked).values).tolist() == [3, 4]
    found = np.flatnonzero(explain("occlusion by window", encoder, asked).values)
    assert found.tolist() == [40, 41, 42, 43]


def test_nice_that_looks_at_one_channel():
    encoder = unsettle(NICE(**SIZES)).eval()
    others = [0, 1, 3, 4]
    encoder.spatial.weight.data[:, :, others] = 0
    for kind in ("grad-cam by place", "occlusion by channel", "integrated gradients"):
        values = explain(kind, encoder, question()).values
        if kind == "occlusion by channel":
            # Of a cosine the rounding is left, which depends on how many threads sum.
            assert abs(values[others]).max() < 1e-6 < abs(values[2]).max() / 100
        else:
            assert values[2].any() and not values[others].any(), kind


def test_nice_that_looks_at_one_token():
    encoder = unsettle(NICE(**SIZES)).eval()
    encoder.project.weight.data.view(12, 4, 40)[:, [0, 1, 3]] = 0  # token 2: samples 10 to 84
    found = explain("grad-cam by place", encoder, question()).over_time()
    assert found.argmax() == 47 and (found[:43] == 0).all() and (found[52:] == 0).all()
    found = explain("integrated gradients", encoder, question()).over_time()
    assert (found[10:85] > 0).all() and not found[:10].any() and not found[85:].any()


class Residual(nn.Module):
    """Another encoder with NICE inside, as the spatial modules have it."""

    def __init__(self, **sizes):
        super().__init__()
        self.config, self.inner = sizes, NICE(**sizes)

    def forward(self, eeg):
        return self.inner(eeg)


@pytest.mark.parametrize("kind", ["grad-cam", "grad-cam by place"])
@pytest.mark.parametrize("outside", [False, True])
def test_grad_cam_against_a_slow_one(kind, outside):
    whole = unsettle(Residual(**SIZES)).eval()
    encoder, asked = whole.inner, question()
    eeg = torch.from_numpy(asked.eeg)[None, None]
    filtered = functional.conv2d(eeg, encoder.temporal.weight, encoder.temporal.bias)
    pooled = functional.avg_pool2d(filtered, (1, 51), (1, 5))
    activity = functional.elu(encoder.temporal_norm(pooled)).detach().requires_grad_()
    mixed = functional.elu(encoder.spatial_norm(encoder.spatial(activity)))
    projected = encoder.project(encoder.tokens(mixed).squeeze(2).transpose(1, 2).flatten(1))
    embedding = encoder.norm(projected + encoder.residual(functional.gelu(projected)))[0]
    candidate = torch.from_numpy(asked.candidate)
    target = embedding @ candidate / embedding.norm() / candidate.norm()
    target.backward()
    seen = activity.detach()[0]
    expected = np.zeros((5, 4))
    for channel in range(5):
        for token in range(4):
            for k in range(40):
                weight = activity.grad[0, k]
                weight = weight.mean() if kind == "grad-cam" else weight[channel, token]
                expected[channel, token] += float(weight * seen[k, channel, token])
    expected = np.maximum(expected, 0)
    assert expected.any()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = explain(kind, whole if outside else encoder, asked)
    np.testing.assert_allclose(found.values[:, [37, 42, 47, 52]], expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(
        found.values[:, 40], 0.4 * expected[:, 0] + 0.6 * expected[:, 1], rtol=1e-3, atol=1e-7
    )
    assert (found.values[:, :37] == found.values[:, [37]]).all()
    for name, value in encoder.state_dict().items():  # it worked on a copy
        assert torch.equal(value, before[name])
    assert "temporal_spatial" not in vars(encoder) and not encoder.spatial._forward_pre_hooks


def test_integrated_gradients_of_nice_are_complete():
    for weights in range(12):  # of any of them, the sum misses less than a thousandth of a cosine
        torch.manual_seed(weights)
        encoder = unsettle(NICE(**SIZES)).eval()
        for seed in range(5):
            assert abs(explain("integrated gradients", encoder, question(seed=seed)).error) < 1e-3
    torch.manual_seed(0)  # of these, of what is to be shared out as well
    encoder = unsettle(NICE(**SIZES)).eval()
    for seed in range(5):
        asked = question(seed=seed)
        eeg = torch.from_numpy(np.stack([asked.eeg, 0 * asked.eeg]))
        with torch.no_grad():
            unit = functional.normalize(encoder(eeg), dim=1).numpy()
        total = (unit[0] - unit[1]) @ asked.candidate / np.linalg.norm(asked.candidate)
        found = explain("integrated gradients", encoder, asked)
        assert found.error == pytest.approx(found.values.sum() - total, abs=1e-6)
        assert abs(found.error) < 1e-3 * abs(total)
    assert explain("gradient × input", encoder, asked).error is None


def test_integrated_gradients_where_little_decides_close_to_silence():
    """Behind a layer normalisation, as of nice-sa, against 20,000 points evenly on the way."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SIZES
            self.norm = nn.LayerNorm(SIZES["times"])
            torch.manual_seed(5)
            self.linear = nn.Linear(SIZES["channels"] * SIZES["times"], SIZES["dim"])

        def forward(self, eeg):
            return self.linear(self.norm(eeg).flatten(1))

    encoder, asked = Normed().eval(), question()
    found = explain("integrated gradients", encoder, asked)
    eeg, path = torch.from_numpy(asked.eeg), np.zeros(asked.eeg.shape)
    for part in np.split((np.arange(20_000) + 0.5) / 20_000, 20):
        point = (torch.from_numpy(part).float()[:, None, None] * eeg).requires_grad_()
        target = functional.cosine_similarity(
            encoder(point), torch.from_numpy(asked.candidate)[None], dim=1
        )
        path += torch.autograd.grad(target.sum(), point)[0].double().sum(0).numpy() / 20_000
    slow = asked.eeg * path
    assert abs(found.error) < 1e-3
    assert np.abs(found.values - slow).max() < 0.01 * np.abs(slow).max()
    # Even points, as many as suffice elsewhere, are far off.
    nodes, weights = np.polynomial.legendre.leggauss(16)
    point = (torch.from_numpy((nodes + 1) / 2).float()[:, None, None] * eeg).requires_grad_()
    target = functional.cosine_similarity(
        encoder(point), torch.from_numpy(asked.candidate)[None], dim=1
    )
    gradients = torch.autograd.grad(target.sum(), point)[0].numpy()
    even = asked.eeg * np.einsum("s,sct->ct", weights / 2, gradients)
    assert np.abs(even - slow).max() > 0.05 * np.abs(slow).max()


def test_occlusion_of_nothing_and_of_everything():
    encoder, asked, terms = compass()
    parts = np.stack([np.zeros((5, 93), bool), np.ones((5, 93), bool)])
    np.testing.assert_allclose(occlusion(encoder, asked, parts), [0, terms.sum()], atol=1e-6)


def test_attention_received():
    torch.manual_seed(0)
    found = explain("attention", Attentive(), question(2))
    rows = [[5 * i + j + 1 for j in range(5)] for i in range(5)]
    expected = [np.mean([row[channel] / sum(row) for row in rows]) for channel in range(5)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert found.channels == NAMES and found.times is None


def test_pattern_finds_the_source_where_the_filter_does_not():
    # One source and strong noise common to two channels: the best filter is large where the
    # source isn't (Haufe et al. 2014, figure 1).
    source, noise = np.array([1.0, 0, 0, 0, 0]), np.array([1.0, 1, 0, 0, 0])
    covariance = 0.1 * np.eye(5) + 10 * np.outer(noise, noise)
    values, vectors = np.linalg.eigh(covariance)
    whitening = (vectors / np.sqrt(values)) @ vectors.T
    in_time = np.exp(-0.5 * ((np.arange(93) - 50) / 5) ** 2)
    encoder, asked, _ = compass(1e-3 * np.outer(whitening @ source, in_time))
    asked = replace(asked, whitening=np.stack([whitening] * 4))
    found = explain("pattern", encoder, asked)
    np.testing.assert_allclose(found.values, 1e-3 * np.outer(source, in_time), atol=1e-8)
    on_volts = whitening @ whitening @ source
    assert abs(on_volts[1]) > 0.5 * abs(on_volts[0])


# ---------------------------------------------------------------- every encoder, every kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_gets_a_map_or_a_sentence(name, kind):
    torch.manual_seed(0)
    encoder = unsettle(build(name, **SIZES)).eval()
    asked = question(whitening=np.eye(5)[None])
    try:
        found = explain(kind, encoder, asked)
    except InputError as error:
        assert kind == "attention" or kind.startswith("grad-cam")
        assert f"The encoder {name} has no" in str(error)
        return
    shape = (5,) * (found.channels is not None) + (93,) * (found.times is not None)
    assert found.values.shape == shape and np.isfinite(found.values).all()
    assert found.kind == kind
    again = explain(kind, encoder, asked)
    np.testing.assert_array_equal(found.values, again.values)


# ---------------------------------------------------------------- sanity


@pytest.mark.parametrize("kind", ["grad-cam by place", "integrated gradients"])
def test_sanity_check_of_what_was_never_trained_is_one(kind):
    trained, asked = unsettle(NICE(**SIZES)).eval(), question()
    untrained = randomised(trained, seed=4)
    check = sanity_check(explain(kind, untrained, asked), untrained, asked, seed=4)
    assert check.correlation == pytest.approx(1)
    assert check.correlation_of_sizes == pytest.approx(1)
    check = sanity_check(explain(kind, trained, asked), trained, asked, seed=4)
    assert abs(check.correlation) < 0.6
    np.testing.assert_array_equal(check.randomised.values, explain(kind, untrained, asked).values)


@pytest.mark.parametrize(
    ("name", "within"), [("nice", 2e-4), ("nice-sa", 5e-3), ("nice-ga", 2e-4), ("ridge", 2e-3)]
)
def test_few_points_suffice_before_training(name, within):
    bundle = Bundle("weights/phantom")
    decoder, encoder = BundleDecoder(bundle), bundle.encoder("8", name)
    untrained = randomised(encoder)
    for picture, looks in ((0, 80), (70, 80), (140, 1)):
        seen = bundle.gallery.candidates[picture].id
        asked = Question.of(bundle, decoder.decode("8", name, seen, looks))
        found = explain("integrated gradients", encoder, asked).values
        few, many = (
            explain("integrated gradients", untrained, asked, paths).values
            for paths in (UNTRAINED_PATHS, [(64, 2)])
        )
        for size in (np.asarray, np.abs):
            alike = rank_correlation(size(found), size(many))
            assert rank_correlation(size(found), size(few)) == pytest.approx(alike, abs=within)


@pytest.mark.parametrize("name", ["nice", "nice-sa", "nice-ga", "ridge"])
@pytest.mark.parametrize("looks", [1, 5, 80])
def test_quick_maps_are_the_same_maps(name, looks):
    """To a hundredth of the largest share of an electrode, which no colour shows."""
    bundle = Bundle("weights/phantom")
    decoder, encoder = BundleDecoder(bundle), bundle.encoder("8", name)
    for picture in (0, 70, 140):
        seen = bundle.gallery.candidates[picture].id
        asked = Question.of(bundle, decoder.decode("8", name, seen, looks))
        quick, many = (
            explain("integrated gradients", encoder, asked, paths)
            for paths in (QUICK_PATHS, [(64, 2)])
        )
        assert abs(quick.error) < 1e-3
        shares = many.values.sum(1)
        np.testing.assert_allclose(quick.values.sum(1), shares, atol=0.01 * abs(shares).max())


def test_randomised_weights_are_the_seeds_alone():
    trained = unsettle(NICE(**SIZES)).eval()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (randomised(trained, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert not one.training
    assert torch.equal(one.project.weight, same.project.weight)
    for weights in (other, trained):
        assert not torch.equal(one.project.weight, weights.project.weight)


def test_rank_correlation():
    assert rank_correlation(
        np.array([[1, 2], [3, 40]]), np.array([[1, 4], [9, 16]])
    ) == pytest.approx(1)
    assert rank_correlation(np.arange(5), -np.arange(5)) == pytest.approx(-1)
    assert np.isnan(rank_correlation(np.arange(5), np.ones(5)))


# ---------------------------------------------------------------- truth

# Seven electrodes in a row, 40 mm apart; two peaks, at 1 (the stronger) and at 5.
ROW = np.stack([0.04 * np.arange(7), np.zeros(7), np.zeros(7)], 1)
STRENGTH = np.array([2.0, 9, 3, 1, 4, 5, 0])
COURSE = np.array([0.0, 1, 5, 3, 2])
TRUTH = np.outer(STRENGTH, COURSE)


def made(channels, times=None):
    values = np.asarray(channels, float)
    values = values if times is None else np.outer(values, times)
    axis = None if times is None else np.arange(len(times)) / 100
    return Map("made", values, "arbitrary", [f"E{i}" for i in range(len(channels))], axis)


def test_the_truth_itself_scores_best():
    found = score(made(-(STRENGTH**2), COURSE**3), TRUTH, ROW)
    assert (found.channels, found.times) == (pytest.approx(1), pytest.approx(1))
    assert (found.to_nearest, found.to_strongest) == (0, 0)
    # Distances of electrodes 0…6 to the nearer of 1 and 5, and to 1, in steps of 40 mm.
    assert found.chance_to_nearest == pytest.approx(40 * np.mean([1, 0, 1, 2, 1, 0, 1]))
    assert found.chance_to_strongest == pytest.approx(40 * np.mean([1, 0, 1, 2, 3, 4, 5]))


def test_localisation_error():
    found = score(made([0, 1, 0, 0, 0, 0, -8]), TRUTH, ROW)
    assert (found.to_nearest, found.to_strongest) == (pytest.approx(40), pytest.approx(200))
    assert found.times is None
    tied = score(made([0, 0, 0, 0, 3, 3, 0]), TRUTH, ROW)  # as painted by region
    assert (tied.to_nearest, tied.to_strongest) == (pytest.approx(20), pytest.approx(140))
    blank = score(made(np.ones(7)), TRUTH, ROW)
    assert np.isnan(blank.channels)
    assert blank.to_nearest == pytest.approx(blank.chance_to_nearest)


def test_a_weak_peak_is_none():
    weak = TRUTH * np.where(np.arange(7) > 3, 0.5, 1)[:, None]  # the second: 2.5 of 9
    found = score(made([0, 0, 0, 0, 0, 1, 0]), weak, ROW)
    assert found.to_nearest == found.to_strongest == pytest.approx(160)


def test_a_map_over_time_alone():
    found = score(Map("made", -COURSE, "", None, np.arange(5.0)), TRUTH, ROW)
    assert found.times == pytest.approx(1)
    assert found.channels is found.to_nearest is found.chance_to_strongest is None


def test_average_is_of_sizes():
    mean = average([made([1, -2]), made([-3, 0])])
    assert mean.values.tolist() == [2, 1] and mean.channels == ["E0", "E1"]


# ---------------------------------------------------------------- bad input


def test_refusals():
    encoder = unsettle(NICE(**SIZES)).eval()
    ridge = build("ridge", **SIZES)
    asked = question()
    refuses(lambda: explain("dreams", encoder, asked), "no map 'dreams'; choose one of attention")
    refuses(
        lambda: explain("attention", encoder, asked),
        "nice has no attention; choose nice-sa or nice-ga",
    )
    refuses(lambda: explain("attention", Compass(), question(2)), "Compass has no attention")
    refuses(
        lambda: explain("grad-cam", ridge, asked),
        "ridge has no convolution over channels and time for Grad-CAM",
    )
    refuses(lambda: explain("pattern", ridge, asked), "whitening of this EEG isn't known")
    refuses(
        lambda: explain("occlusion by region", ridge, replace(asked, channels=[*NAMES[:4], "E7"])),
        "No region is known for E7; choose occlusion by channel",
    )
    refuses(
        lambda: explain("occlusion by window", ridge, question(13)),
        "takes 5 channels × 93 samples and embeds in 12 dimensions, not 5 × 93 and 13",
    )
    refuses(
        lambda: replace(asked, channels=NAMES[:4]),
        "EEG of shape (5, 93) can't be explained with 4 channel names",
    )
    refuses(lambda: replace(asked, candidate=np.full(12, np.nan)), "holds NaN or infinity")
    refuses(lambda: replace(asked, candidate=np.zeros(12)), "one embedding that isn't zero")
    refuses(
        lambda: score(made(np.ones(6)), TRUTH, ROW),
        "A truth of shape (7, 5) and positions of shape (7, 3) don't fit a map of shape",
    )
    refuses(lambda: score(made(STRENGTH, np.ones(4)), TRUTH, ROW), "don't fit")
    refuses(lambda: score(made(STRENGTH), TRUTH, ROW[:5]), "don't fit")


# ---------------------------------------------------------------- through a bundle


def test_maps_of_a_bundle_find_its_truth(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    decoder = BundleDecoder(bundle)
    subject = bundle.subjects[0]
    most = bundle.repetitions[-1]
    truth = open_truth(bundle, subject)
    assert truth.volts.shape == truth.whitened.shape == (63, 250)
    for name in ("nice", "ridge"):
        encoder = bundle.encoder(subject, name)
        maps = []
        for candidate in bundle.gallery.candidates[:4]:
            decoding = decoder.decode(subject, name, candidate.id, most)
            asked = Question.of(bundle, decoding)
            assert asked.whitening.shape == (4, 63, 63)
            found = explain("integrated gradients", encoder, asked)
            everything = np.ones((1, 1, 1), bool)
            gained = occlusion(encoder, asked, everything)[0]
            assert abs(found.error) < 1e-3 * max(abs(gained), 0.01)
            assert found.times[[0, -1]].tolist() == [0, 0.996]
            maps.append(found)
        scored = score(average(maps), truth.of(found.kind), bundle.montage.positions)
        assert scored.channels > 0.3 and scored.times > 0.3
        assert 0 <= scored.to_nearest <= scored.to_strongest <= 250
    other = Question.of(bundle, decoding, candidate=1)
    np.testing.assert_array_equal(other.candidate, bundle.gallery.embeddings[1])
    refuses(
        lambda: Question.of(bundle, replace(decoding, evoked=None)),
        "There is no EEG behind these embeddings",
    )


def test_truth_against_a_slow_one(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    subject = bundle.subjects[0]
    truth = open_truth(bundle, subject)
    stored = load_file(tiny_bundle / "truth" / "sub-01.safetensors")["specific"]
    np.testing.assert_allclose(truth.volts, stored[:, 50:], rtol=1e-5)
    phantom = Phantom.open(tiny_bundle / "trials" / "sub-01.safetensors")
    whitened = []
    for condition in range(len(bundle.gallery)):
        volts = phantom.expected(condition)[:, 50:]
        whitened.append(sum(matrix @ volts for matrix in phantom.whitening) / 4)
    np.testing.assert_allclose(truth.whitened, np.std(whitened, axis=0), rtol=1e-9)
    assert truth.of("pattern") is truth.volts
    assert all(truth.of(kind) is truth.whitened for kind in KINDS if kind != "pattern")
    # It is the true response: in the mean over repetitions, of little noise, it shows.
    trials = bundle.trials(subject)
    evoked = np.stack([trials.evoked(c, 80).eeg for c in range(len(whitened))])
    assert np.corrcoef(np.ravel(whitened), evoked.ravel())[0, 1] > 0.5


def test_real_subjects_have_no_known_truth(stored_bundle):
    bundle = Bundle(stored_bundle)
    subject = bundle.subjects[0]
    refuses(lambda: open_truth(bundle, subject), "only of phantom subjects they are known")
    refuses(lambda: open_truth(bundle, "77"), "There is no subject '77'")
    decoder = BundleDecoder(bundle)
    picture = bundle.gallery.candidates[0].id
    decoding = decoder.decode(subject, "ridge", picture, bundle.repetitions[0])
    refuses(
        lambda: explain("pattern", bundle.encoder(subject, "ridge"), Question.of(bundle, decoding)),
        "whitening of this EEG isn't known",
    )
