"""The phantom: the same trial always, what it is made of, and where its sources lie."""

import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nice_demo.errors import InputError
from nice_demo.preparation import shrunk_covariance, whitening_matrix
from nice_demo.sources.phantom.head import AREAS, COMMON, _sphere, make_phantom
from nice_demo.sources.phantom.prepare import training_averages
from nice_demo.sources.phantom.trials import RESOLUTION, Averages, Phantom, session

V1 = next(area for area in AREAS if area.name == "V1")
TIMES = np.arange(300) / 250 - 0.2


def pictures(seed=0, train=24, test=5):
    rng = np.random.default_rng(seed)
    return {
        f"{split}_{kind}": rng.standard_normal((count, size)).astype(np.float32)
        for split, count in (("train", train), ("test", test))
        for kind, size in (("low", 64), ("visual", 20), ("semantic", 20))
    }


@pytest.fixture(scope="module")
def made():
    return make_phantom(3, pictures(), 0.8, seed=11)


@pytest.fixture(scope="module")
def phantom(made):
    """Return a phantom with a whitening of its own in each session."""
    rng = np.random.default_rng(1)
    whitening = 1e5 * (np.eye(63) + 0.02 * rng.standard_normal((4, 63, 63)))
    return replace(made[0], whitening=whitening)


# ---------------------------------------------------------------- the same trial always


def digest(trials):
    return hashlib.sha256(np.ascontiguousarray(trials).tobytes()).hexdigest()


def test_alone_or_with_others(phantom):
    together = phantom.trials("test", 2, range(80))
    assert together.dtype == np.int32
    for repetition in (0, 1, 17, 79):
        alone = phantom.trials("test", 2, [repetition])[0]
        np.testing.assert_array_equal(alone, together[repetition])
    np.testing.assert_array_equal(phantom.trials("test", 2, [9, 4, 9]), together[[9, 4, 9]])
    np.testing.assert_array_equal(phantom.trials("test", 2, range(80)), together)


def test_another_process(phantom, tmp_path):
    phantom.save(tmp_path / "phantom.safetensors")
    code = (
        "import sys, hashlib\n"
        "from nice_demo.sources.phantom.trials import Phantom\n"
        "phantom = Phantom.open(sys.argv[1])\n"
        "evoked = phantom.evoked('test', 4, [1, 5])\n"
        "parts = phantom.trials('test', 4, range(5)), evoked.volts\n"
        "print([hashlib.sha256(part.tobytes()).hexdigest() for part in parts])\n"
        "print('mne' in sys.modules, 'torch' in sys.modules)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "phantom.safetensors")],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout.splitlines()  # fmt: skip
    evoked = phantom.evoked("test", 4, [1, 5])
    ours = [digest(phantom.trials("test", 4, range(5))), digest(evoked.volts)]
    assert told == [str(ours), "False False"]


def test_made_anew(made):
    again, extra = make_phantom(3, pictures(), 0.8, seed=11)
    np.testing.assert_array_equal(again.trials("train", 1, [2]), made[0].trials("train", 1, [2]))
    np.testing.assert_array_equal(extra["test_drives"], made[1]["test_drives"])


def test_every_name_counts(phantom):
    base = phantom.trials("test", 2, [3])[0]
    others = [
        replace(phantom, seed=12).trials("test", 2, [3])[0],
        replace(phantom, subject=4).trials("test", 2, [3])[0],
        phantom.trials("train", 2, [3])[0],
        phantom.trials("test", 1, [3])[0],
        phantom.trials("test", 2, [4])[0],
    ]
    for other in others:
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 0.9
        assert (base != other).mean() > 0.9


def test_averages_are_means_of_single_trials(phantom):
    counts = [1, 2, 5, 10, 80]
    evoked = phantom.evoked("test", 1, counts)
    assert evoked.volts.shape == (5, 63, 300)
    assert evoked.whitened.shape == (5, 63, 250)
    volts = np.zeros((63, 300))
    whitened = np.zeros((63, 250))
    for repetition in range(80):
        trial = phantom.trials("test", 1, [repetition])[0] * RESOLUTION
        trial = trial - trial[:, :50].mean(1)[:, None]
        volts += trial
        whitened += (phantom.whitening[repetition % 4] @ trial)[:, 50:]
        if repetition + 1 in counts:
            place = counts.index(repetition + 1)
            mean = volts / (repetition + 1)
            np.testing.assert_allclose(evoked.volts[place], mean, rtol=0, atol=1e-15)
            np.testing.assert_allclose(
                evoked.whitened[place], whitened / (repetition + 1), rtol=0, atol=1e-9
            )


def test_an_average_does_not_depend_on_what_else_is_asked(phantom):
    alone, among = phantom.evoked("test", 1, [5]), phantom.evoked("test", 1, [1, 5, 20])
    np.testing.assert_array_equal(alone.volts[0], among.volts[1])
    np.testing.assert_array_equal(alone.whitened[0], among.whitened[1])


@pytest.mark.parametrize("order", [(80, 5, 1, 20), (1, 5, 20, 80), (5, 80, 1, 20), (20, 20, 1, 5)])
def test_averages_are_made_as_they_are_asked_for(phantom, monkeypatch, order):
    counts, generated = [1, 5, 20, 80], []
    expected = phantom.evoked("test", 3, counts)
    trials = Phantom.trials

    def noted(self, split, condition, repetitions):
        generated.extend(repetitions)
        return trials(self, split, condition, repetitions)

    monkeypatch.setattr(Phantom, "trials", noted)
    averages = Averages(phantom, "test", 3, counts)
    for place, count in enumerate(order):
        volts, whitened = averages.of(count)
        np.testing.assert_array_equal(volts, expected.volts[counts.index(count)])
        np.testing.assert_array_equal(whitened, expected.whitened[counts.index(count)])
        assert generated == list(range(max(order[: place + 1])))  # no more, and each once


def test_visitors_who_ask_at_once_share_the_trials(phantom, monkeypatch):
    generated, trials = [], Phantom.trials

    def noted(self, split, condition, repetitions):
        generated.extend(repetitions)
        return trials(self, split, condition, repetitions)

    monkeypatch.setattr(Phantom, "trials", noted)
    averages = Averages(phantom, "test", 3, [1, 5, 20])
    together = threading.Barrier(8)

    def ask(count):
        together.wait(60)
        return averages.of(count)[0]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, [20, 1, 5, 20, 5, 1, 20, 5]))
    assert generated == list(range(20))
    for mine, other in ((0, 3), (1, 5), (2, 4), (2, 7), (3, 6)):
        np.testing.assert_array_equal(found[mine], found[other])


def test_sessions_take_turns():
    assert [session(r) for r in range(6)] == [0, 1, 2, 3, 0, 1]


# ---------------------------------------------------------------- what a trial is made of


def literal_trial(phantom, split, condition, repetition):
    """One trial, picture by picture and source by source, in steps before rounding."""
    rng = np.random.default_rng(
        [phantom.seed, phantom.subject, {"train": 0, "test": 1}[split], condition, repetition]
    )
    shown = rng.integers(len(phantom.drives), size=9)
    gains = np.exp(0.25 * rng.standard_normal(9))
    delays = np.rint(1000 * phantom.jitter * rng.standard_normal(9))
    amplitude = np.exp([0.15, 0.5] * rng.standard_normal(2))
    white = rng.standard_normal((phantom.noise.shape[1], 300), dtype=np.float32)
    sensor = rng.standard_normal((64, 300), dtype=np.float32)
    rhythm = rng.standard_normal((phantom.alpha.shape[1], 300), dtype=np.float32)
    shown[4] = condition

    volts = np.zeros((63, 300))
    for place in range(9):  # pictures before, the picture, pictures after
        onset = 0.2 * (place - 4) + np.clip(delays[place], -40, 40) / 1000
        for source in range(len(phantom.kernel)):
            drive = 2 * np.tanh(phantom.drives[shown[place], source] * gains[place] / 2)
            if not phantom.common[source]:
                drive *= phantom.gain
            course = phantom.timecourses[phantom.kernel[source]]
            response = np.zeros(300)
            for sample in range(300):
                milliseconds = round(1000 * (TIMES[sample] - onset))
                if abs(milliseconds) <= 1100:  # the table's ends are silent
                    response[sample] = drive * course[1100 + milliseconds]
            volts += np.outer(phantom.patterns[:, source], response)
    scale = amplitude * phantom.session_scale[:, repetition % 4]
    for source in range(phantom.noise.shape[1]):
        wave = scale[0] * white[source] @ phantom.noise_spectrum
        volts += np.outer(phantom.noise[:, source], wave)
    for source in range(phantom.alpha.shape[1]):
        wave = scale[1] * rhythm[source] @ phantom.alpha_spectrum
        volts += np.outer(phantom.alpha[:, source], wave)
    volts += (sensor[:63] - sensor[63]) * phantom.sensor_noise  # each against the reference's own
    return volts / RESOLUTION


@pytest.mark.parametrize(("split", "condition", "repetition"), [("train", 5, 0), ("test", 3, 6)])
def test_against_a_literal_trial(phantom, split, condition, repetition):
    ours = phantom.trials(split, condition, [repetition])[0]
    literal = literal_trial(phantom, split, condition, repetition)
    assert abs(literal).max() < 2**15  # int16 is enough for training trials
    # Half a step of rounding, and what single precision makes of the noise.
    np.testing.assert_allclose(ours, literal, rtol=0, atol=0.51)


def test_expected_is_the_limit_of_quiet_trials(phantom):
    quiet = replace(
        phantom,
        noise=phantom.noise * 0,
        alpha=phantom.alpha * 0,
        sensor_noise=0.0,
        jitter=0.0,
    )
    for condition in (0, 7):
        alone = np.arange(24)[:, None] == condition
        silent = replace(quiet, drives=np.where(alone, quiet.drives, 0))
        trial = silent.trials("test", condition, range(60)) * RESOLUTION
        # Gains vary by a quarter from trial to trial, and pictures before and after are the same
        # one in 24; their sum leaves the shape of the response.
        mean = trial.mean(0)[:, 50:110].ravel()
        wanted = silent.expected(condition)[:, 50:110].ravel()
        assert np.corrcoef(mean, wanted)[0, 1] > 0.85


def test_size_of_the_signals(phantom):
    for condition in range(3):
        trials = phantom.trials("test", condition, range(80)) * RESOLUTION * 1e6  # µV
        trials -= trials[..., :50].mean(-1, keepdims=True)
        trials -= trials.mean(1, keepdims=True)  # average reference
        assert 5 < trials.std() < 8
        swing = np.ptp(trials.mean(0), axis=1).max()
        assert 5 < swing < 12


def test_nothing_of_the_picture_before_it_is_seen(made):
    phantom, _ = made
    expected = np.stack([phantom.expected(condition) for condition in range(24)])
    specific = expected.std(0)
    assert not specific[:, TIMES < 0.0199].any()
    assert specific[:, TIMES < 0.0399].max() < 0.005 * specific.max()
    assert specific[:, (TIMES > 0.08) & (TIMES < 0.2)].max() > 0.5 * specific.max()


def test_gain_is_the_specific_signal(made):
    phantom, _ = made
    deviation = []
    for gain in (0.0, 1.0, 2.0):
        expected = [replace(phantom, gain=gain).expected(c) for c in range(5)]
        deviation.append(np.std(expected, axis=0))
    assert deviation[0].max() < 1e-20
    assert deviation[1].max() > 1e-7
    np.testing.assert_allclose(deviation[2], 2 * deviation[1], atol=1e-15)


# ---------------------------------------------------------------- the head


def test_sources_lie_inside(made):
    _, extra = made
    centre, radius = _sphere()
    assert 0.08 < radius < 0.11
    depth = np.linalg.norm(extra["positions"] - centre, axis=1) / radius
    assert depth.max() < 0.86
    assert depth.min() > 0.5
    assert len(depth) == 2 * sum(area.sources for area in AREAS) + 2 * len(COMMON)
    for number, area in enumerate(AREAS):
        places = extra["positions"][extra["area"] == number] - centre
        half = len(places) // 2
        assert (np.sign(places[:half, 0]).mean() < 0) and (np.sign(places[half:, 0]).mean() > 0)
        wanted = np.array(area.direction) / np.linalg.norm(area.direction)
        right = places[half:] / np.linalg.norm(places[half:], axis=1, keepdims=True)
        assert (right @ wanted).min() > 0.9


def test_v1_sees_the_opposite_quadrant():
    """Contrast in one quarter of the field drives V1 of the other side only, and one bank of it."""
    seen = pictures(3, train=40)
    contrast = np.random.default_rng(2).standard_normal((5, 2, 2, 4))
    drives = {}
    for quarter in (None, *product(("upper", "lower"), ("left", "right"))):
        grid = np.zeros((5, 4, 4, 4))  # downwards, to the right, orientation
        if quarter:
            rows = slice(0, 2) if quarter[0] == "upper" else slice(2, 4)
            columns = slice(0, 2) if quarter[1] == "left" else slice(2, 4)
            grid[:, rows, columns] = contrast
        _, extra = make_phantom(1, seen | {"test_low": grid.reshape(5, 64)}, 1.0, seed=11)
        drives[quarter] = extra["test_drives"][:, extra["area"] == AREAS.index(V1)]
    banks = {}
    for quarter in list(drives)[1:]:
        driven = abs(drives[quarter] - drives[None]).max(0) > 0.01
        left_hemisphere, right_hemisphere = np.split(driven, 2)
        assert not (right_hemisphere if quarter[1] == "right" else left_hemisphere).any()
        banks[quarter] = left_hemisphere if quarter[1] == "right" else right_hemisphere
        assert banks[quarter].any()
    for side in ("left", "right"):  # each source sees the upper or the lower half
        assert (banks["upper", side] ^ banks["lower", side]).all()


def test_subjects_differ_but_share(made):
    phantom, _ = made
    one = phantom.drives
    other, _ = make_phantom(4, pictures(), 0.8, seed=11)
    specific = phantom.common == 0
    assert not np.allclose(phantom.patterns, other.patterns, rtol=0.05, atol=0)
    shared = [np.corrcoef(one[:, s], other.drives[:, s])[0, 1] for s in np.flatnonzero(specific)]
    assert 0.3 < np.mean(shared) < 0.9


def test_drives_are_of_unit_spread(made):
    phantom, _ = made
    specific = phantom.common == 0
    np.testing.assert_allclose(phantom.drives[:, specific].std(0), 1, atol=1e-3)
    np.testing.assert_allclose(phantom.drives[:, specific].mean(0), 0, atol=1e-3)
    assert (phantom.drives[:, ~specific] == 1).all()


# ---------------------------------------------------------------- preparation


def test_whitening_of_training_trials_only(made):
    phantom, _ = made
    few = replace(phantom, drives=phantom.drives[:6])
    whitening, averages = training_averages(few)
    assert averages.dtype == np.float32
    mean = np.zeros((6, 63, 250))
    for number in range(4):
        epochs = np.stack([few.trials("train", c, [number])[0] for c in range(6)]) * RESOLUTION
        epochs = epochs - epochs[..., :50].mean(2, keepdims=True)
        oracle = whitening_matrix(shrunk_covariance(epochs[..., 50:]))
        np.testing.assert_allclose(whitening[number], oracle, rtol=0, atol=1e-8 * abs(oracle).max())
        mean += (oracle @ epochs)[..., 50:] / 4
    np.testing.assert_allclose(averages, mean, rtol=0, atol=1e-5)
    # Its own whitening plays no part.
    again, _ = training_averages(replace(few, whitening=few.whitening * 7))
    np.testing.assert_array_equal(again, whitening)


def test_test_pictures_play_no_part_in_training(made):
    phantom, extra = made
    changed = pictures()
    for kind in ("low", "visual", "semantic"):
        changed[f"test_{kind}"] = 3 * changed[f"test_{kind}"][::-1] + 1
    other, other_extra = make_phantom(3, changed, 0.8, seed=11)
    assert not np.allclose(other_extra["test_drives"], extra["test_drives"])
    for name in ("drives", "patterns", "timecourses", "noise", "alpha", "session_scale"):
        np.testing.assert_array_equal(getattr(other, name), getattr(phantom, name))


def test_prepared_folder(tiny_data):
    """What lies in the folder is what the stored phantom makes: the page shows the test trials."""
    from nice_demo.eegset import DataSet

    eeg = DataSet.open(tiny_data).subject(2)
    stored = Phantom.open(tiny_data / "sub-02" / "phantom.safetensors")
    assert stored.subject == 2
    assert len(stored.drives) == 12  # test pictures
    assert eeg.train.shape == (240, 1, 63, 250)
    for condition in (0, 11):
        evoked = stored.evoked("test", condition, eeg.test_repetitions)
        np.testing.assert_array_equal(eeg.test[condition], evoked.whitened.astype(np.float32))
    assert 0.2 < eeg.train[:50].astype(float).std() < 1.2  # whitened, mean of four


# ---------------------------------------------------------------- on disk


def test_save_and_open(phantom, tmp_path):
    path = tmp_path / "phantom.safetensors"
    phantom.save(path)
    again = Phantom.open(path)
    for name, value in vars(phantom).items():
        np.testing.assert_array_equal(getattr(again, name), value)
        assert type(getattr(again, name)) is type(value)
    one, two = (p.evoked("test", 0, [1, 2]) for p in (phantom, again))
    np.testing.assert_array_equal(one.whitened, two.whitened)


def test_no_phantom(tmp_path):
    for content in (None, b"", b"hello", b"\0" * 100):
        path = tmp_path / "phantom.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="phantom"):
            Phantom.open(path)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_phantom(phantom, tmp_path, data):
    path = tmp_path / "phantom.safetensors"
    if not path.exists():
        phantom.save(path)
    whole = path.read_bytes()
    broken = tmp_path / "broken.safetensors"
    kind = data.draw(st.sampled_from(["cut", "header"]))
    if kind == "cut":
        broken.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        damaged = bytearray(whole)
        damaged[data.draw(st.integers(0, 800))] ^= data.draw(st.integers(1, 255))
        broken.write_bytes(damaged)
    try:
        Phantom.open(broken)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert kind == "header"
