"""Which part of a trial the encoder gets: against loops; what an address and the API say of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentences import refuses

from nice_demo.bundle import Bundle
from nice_demo.decode import WHOLE, BundleDecoder, LatentsDecoder, Part
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import CHANNELS, PRESETS
from nice_demo.ui.view import address_of, electrodes_of, presets, view_of, view_of_address

NAMES = ["P7", "O1", "O2", "P8"]
TIMES = np.arange(50) / 100
EEG = np.random.default_rng(3).standard_normal((4, 50)).astype(np.float32)


@pytest.fixture(scope="module")
def decoder(stored_bundle):
    return BundleDecoder(Bundle(stored_bundle))  # 4 channels, 80 samples at 100 Hz


def by_hand(part):
    """Go through all values of the EEG one by one."""
    left = np.zeros_like(EEG)
    for row, name in enumerate(NAMES):
        for column in range(50):
            milliseconds = 10 * column
            late = part.start is None or milliseconds >= round(1000 * part.start)
            early = part.end is None or milliseconds < round(1000 * part.end)
            if name not in part.off and late and early:
                left[row, column] = EEG[row, column]
    return left


# ---------------------------------------------------------------- of EEG


@given(
    st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
    st.one_of(st.none(), st.integers(-5, 48)),
    st.integers(1, 60),
    st.booleans(),
)
def test_part_against_a_loop(off, start, length, is_open):
    end = None if is_open else 10 * ((start or 0) + length)
    part = Part(tuple(off), None if start is None else start / 100, end and end / 1000)
    if end is not None and end <= 0:
        refuses(lambda: part.of(EEG, NAMES, TIMES), "window")
        return
    np.testing.assert_array_equal(part.of(EEG, NAMES, TIMES), by_hand(part))


def test_all_of_it_is_the_trial_itself():
    assert WHOLE.of(EEG, NAMES, TIMES) is EEG
    wide = Part(start=-3.0, end=9.0)
    np.testing.assert_array_equal(wide.of(EEG, NAMES, TIMES), EEG)


def test_a_shuffle_keeps_values_and_place_but_no_order():
    plain = Part(("O1",), 0.1, 0.3)
    kept = by_hand(plain) != 0
    one, again, other = (
        replace(plain, shuffle=number).of(EEG, NAMES, TIMES) for number in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    for shuffled in (one, other):
        np.testing.assert_array_equal(shuffled != 0, kept)
        assert sorted(shuffled[kept]) == sorted(EEG[kept])
        assert (shuffled[kept] == EEG[kept]).mean() < 0.2


def test_nothing_left_is_refused():
    refuses(lambda: Part(tuple(NAMES)).of(EEG, NAMES, TIMES), "All electrodes", "switch one on")
    for start, end in ((0.2, 0.2), (0.3, 0.1), (0.5, None), (None, 0.0), (0.201, 0.209)):
        refuses(lambda s=start, e=end: Part((), s, e).of(EEG, NAMES, TIMES), "window", "no EEG")
    refuses(lambda: Part(("Xz",)).of(EEG, NAMES, TIMES), "'Xz'", "P7, O1, O2, P8")


# ---------------------------------------------------------------- decoded


@pytest.mark.parametrize("encoder", ["nice", "ridge"])
def test_decoding_a_part_against_the_encoder_itself(decoder, encoder):
    part = Part(("O1", "P8"), 0.1, 0.4)
    for seen, candidate in enumerate(decoder.gallery.candidates):
        decoding = decoder.decode("2", encoder, candidate.id, 4, part)
        eeg = decoder.bundle.trials("2").evoked(seen, 4).eeg.copy()
        eeg[[1, 3]] = 0
        eeg[:, :10], eeg[:, 40:] = 0, 0
        np.testing.assert_array_equal(decoding.evoked.eeg, eeg)
        with torch.inference_mode():
            found = decoder.bundle.encoder("2", encoder)(torch.from_numpy(eeg)[None])[0].numpy()
        unit = found / np.linalg.norm(found)
        np.testing.assert_allclose(
            decoding.similarities, decoder.gallery.embeddings @ unit, atol=1e-5
        )
        better = decoding.similarities >= decoding.similarities[seen]
        assert decoding.rank == better.sum()
        assert decoding.part == part


def test_off_and_on_again_is_exactly_as_before(decoder):
    whole = decoder.decode("1", "nice", "test-3", 2)
    decoder.decode("1", "nice", "test-3", 2, Part(("O1",), shuffle=4))
    again = decoder.decode("1", "nice", "test-3", 2)
    np.testing.assert_array_equal(whole.similarities, again.similarities)


def test_shuffled_ranks_against_one_at_a_time(decoder):
    decoding = decoder.decode("1", "ridge", "test-2", 4, Part(("O2",)))
    one_by_one = [
        decoder.decode("1", "ridge", "test-2", 4, Part(("O2",), shuffle=number)).rank
        for number in range(1, 8)
    ]
    assert decoder.shuffled_ranks(decoding, 7).tolist() == one_by_one


def test_json_tells_the_part(decoder):
    told = decoder.to_json(decoder.decode("1", "ridge", "test-2", 4, Part(("O2",), 0.1, shuffle=2)))
    assert told["part"] == {
        "electrodes": ["P7", "O1", "P8"],
        "electrodes_off": ["O2"],
        "start_ms": 100,
        "end_ms": 800,
        "shuffle": 2,
    }
    assert json.loads(json.dumps(told)) == told


def test_latents_have_no_part():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((5, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    gallery = Gallery([Candidate(f"p{i}", f"c{i}", f"thing {i}") for i in range(5)], embeddings)
    decoder = LatentsDecoder(embeddings, gallery, None, "mine")
    refuses(lambda: decoder.decode("latents", "latents", "p1", 1, Part(("O1",))), "without EEG")
    who = ("latents", "latents", "p1", 1)
    assert view_of(decoder, *who, "all").part == WHOLE
    for asked in (("O1",), (None, 100), (None, None, 100), (None, None, None, 1)):
        refuses(lambda a=asked: view_of(decoder, *who, *a), "no EEG")
    assert decoder.to_json(decoder.decode(*who))["part"] is None


# ---------------------------------------------------------------- views and addresses


def test_presets_are_those_that_the_montage_has():
    assert list(presets(CHANNELS)) == ["17", "8"]
    assert list(presets(CHANNELS[-17:])) == ["8"]
    assert presets(NAMES) == {}


def test_electrodes_by_name_preset_or_list():
    assert electrodes_of(CHANNELS, None) == electrodes_of(CHANNELS, "all") == CHANNELS
    assert electrodes_of(CHANNELS, "17") == CHANNELS[-17:]
    assert electrodes_of(CHANNELS, "oz, o1.PO7 P7") == ["P7", "PO7", "O1", "Oz"]
    assert electrodes_of(CHANNELS, PRESETS["8"][::-1]) == PRESETS["8"]
    for wrong in ("Xz", ["O1", "<b>"], [3], 3, "9" * 500):
        with pytest.raises(Exception, match="There is no electrode") as caught:
            electrodes_of(CHANNELS, wrong)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ({}, WHOLE),
        ({"electrodes": "P7.O1.O2.P8", "window": "0-800"}, WHOLE),
        ({"off": "O1"}, Part(("O1",))),
        ({"electrodes": "O2"}, Part(("P7", "O1", "P8"))),
        ({"window": "100-400", "shuffle": "3"}, Part((), 0.1, 0.4, 3)),
        ({"window": "100–800"}, Part((), 0.1)),
    ],
)
def test_addresses_there_and_back(decoder, address, part):
    opening = view_of(decoder, "1", "nice", "test-0", 4)
    view = view_of_address(decoder, address, opening)
    assert view.part == part
    says = {name: value for name, value in address_of(part, decoder).items() if value}
    assert view_of_address(decoder, says, opening).part == part


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ({"off": "Qz"}, "no electrode 'Qz'"),
        ({"off": "P7.O1.O2.P8"}, "All electrodes"),
        ({"window": "soon"}, "no window 'soon'"),
        ({"window": "400-100"}, "holds no EEG"),
        ({"window": "900-950"}, "holds no EEG"),
        ({"shuffle": "-1"}, "no shuffle '-1'"),
        ({"shuffle": "1.5"}, "no shuffle '1.5'"),
    ],
)
def test_addresses_of_nothing(decoder, address, sentence):
    opening = view_of(decoder, "1", "nice", "test-0", 4)
    refuses(lambda: view_of_address(decoder, address, opening), sentence)


@pytest.mark.parametrize("wrong", ["x", "nan", "inf", True, [1]])
def test_moments_that_are_none(decoder, wrong):
    refuses(lambda: view_of(decoder, "1", "nice", "test-0", 4, None, wrong), "no moment")
