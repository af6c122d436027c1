"""From a choice to a decoding, against a loop; and how it is told to programs."""

import json

import numpy as np
import pytest
import torch
from sentences import refuses

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder, LatentsDecoder
from nice_demo.gallery import Candidate, Gallery


@pytest.fixture(scope="module")
def decoder(stored_bundle):
    return BundleDecoder(Bundle(stored_bundle))


def latents_decoder(latents=None):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((9, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    candidates = [Candidate(f"p{i}", f"c{i}", f"thing {i}") for i in range(9)]
    gallery = Gallery(candidates, embeddings, {}, "concept centre")
    if latents is None:
        latents = embeddings + 0.5 * rng.standard_normal(embeddings.shape).astype(np.float32)
    return LatentsDecoder(latents, gallery, None, "my decoder")


def by_hand(embedding, gallery, seen):
    """Return similarities and the seen picture's rank, candidate by candidate."""
    similarities = []
    for candidate in gallery.astype(float):
        lengths = np.sqrt(sum(embedding**2)) * np.sqrt(sum(candidate**2))
        similarities.append(sum(embedding * candidate) / lengths)
    better = [s for i, s in enumerate(similarities) if i != seen and s >= similarities[seen]]
    return np.array(similarities), 1 + len(better)


def agrees(decoding, similarities, rank):
    np.testing.assert_allclose(decoding.similarities, similarities, atol=1e-6)
    assert decoding.rank == rank
    assert type(decoding.rank) is int
    assert sorted(decoding.order) == list(range(len(similarities)))
    in_order = [decoding.similarities[i] for i in decoding.order]
    assert in_order == sorted(in_order, reverse=True)
    assert decoding.order[decoding.rank - 1] == decoding.condition


# ---------------------------------------------------------------- a bundle


@pytest.mark.parametrize("encoder", ["nice", "ridge"])
@pytest.mark.parametrize("repetitions", [1, 2, 4])
def test_bundle_against_a_loop(decoder, encoder, repetitions):
    bundle = decoder.bundle
    for seen, candidate in enumerate(bundle.gallery.candidates):
        decoding = decoder.decode("2", encoder, candidate.id, repetitions)
        eeg = bundle.trials("2").evoked(seen, repetitions).eeg
        with torch.inference_mode():
            found = bundle.encoder("2", encoder)(torch.from_numpy(eeg)[None])[0].double().numpy()
        agrees(decoding, *by_hand(found, bundle.gallery.embeddings, seen))
        assert (decoding.subject, decoding.encoder) == ("2", encoder)
        assert (decoding.condition, decoding.repetitions) == (seen, repetitions)
        np.testing.assert_array_equal(decoding.evoked.eeg, eeg)


def test_what_a_bundle_offers(decoder):
    assert decoder.subjects == ["1", "2"]
    assert decoder.repetitions == [1, 2, 4]
    assert decoder.encoders("1") == ["nice", "ridge"]
    assert decoder.simulated
    assert decoder.provenance == "random numbers"
    assert decoder.montage.names == decoder.bundle.montage.names
    assert decoder.folder == decoder.bundle.folder


def test_ranks_agree_with_the_metrics(decoder):
    found = [decoder.decode("1", "ridge", f"test-{i}", 4).rank for i in range(6)]
    told = decoder.metrics("1", "ridge", 4)
    assert told.top1.successes == sum(rank == 1 for rank in found)
    assert told.mean_rank.value == pytest.approx(np.mean(found))


def test_same_choice_same_decoding(decoder):
    one, two = (decoder.decode("1", "nice", "test-3", 2) for _ in range(2))
    np.testing.assert_array_equal(one.similarities, two.similarities)


def test_bundle_does_not_have(decoder):
    refuses(lambda: decoder.decode("9", "nice", "test-1", 1), "'9'", "1, 2")
    refuses(lambda: decoder.decode("1", "vit", "test-1", 1), "'vit'", "nice, ridge")
    refuses(lambda: decoder.decode("1", "nice", "test-99", 1), "'test-99'")
    refuses(lambda: decoder.decode("1", "nice", "", 1), "''")
    for repetitions in (0, 3, -1, 80):
        refuses(lambda n=repetitions: decoder.decode("1", "nice", "test-1", n), repetitions)
    refuses(lambda: decoder.encoders("9"), "'9'")


def test_bundle_to_json(decoder):
    decoding = decoder.decode("1", "ridge", "test-2", 4)
    told = decoder.to_json(decoding, top=3)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["simulated"] is True
    assert told["provenance"] == "random numbers"
    assert told["protocol"] == "stimulus"
    assert (told["subject"], told["encoder"], told["repetitions"]) == ("1", "ridge", 4)
    assert told["candidates"] == 6
    assert told["rank_by_chance"] == np.mean([1, 2, 3, 4, 5, 6])
    assert told["rank"] == decoding.rank
    assert told["seen"] == {
        "id": "test-2",
        "name": "thing 2",
        "similarity": round(float(decoding.similarities[2]), 4),
    }
    assert [entry["rank"] for entry in told["retrieved"]] == [1, 2, 3]
    for entry, row in zip(told["retrieved"], decoding.order, strict=False):
        assert entry["id"] == f"test-{row}"
        assert entry["similarity"] == pytest.approx(decoding.similarities[row], abs=1e-4)
    overall = told["over_all_pictures"]
    assert overall["repetitions"] == 4
    assert overall["protocol"] == "stimulus"
    assert overall["top1"]["chance"] == pytest.approx(1 / 6)
    assert overall["top1"]["low"] <= overall["top1"]["value"] <= overall["top1"]["high"]
    assert len(decoder.to_json(decoding)["retrieved"]) == 6  # no more than there are


def test_to_json_without_metrics(decoder, monkeypatch):
    monkeypatch.setitem(decoder.bundle.manifest, "metrics", [])
    told = decoder.to_json(decoder.decode("1", "nice", "test-0", 1))
    assert told["over_all_pictures"] is None


def test_phantom_decoding(tiny_bundle):
    decoder = BundleDecoder(Bundle(tiny_bundle))
    decoding = decoder.decode("1", "ridge", "test-4", 80)
    assert decoding.evoked.volts.shape == (63, 300)
    told = decoder.to_json(decoding)
    assert told["simulated"] is True
    assert "simulated" in told["provenance"]


# ---------------------------------------------------------------- latents


def test_latents_against_a_loop():
    decoder = latents_decoder()
    ranks = []
    for seen in range(9):
        decoding = decoder.decode("latents", "latents", f"p{seen}", 1)
        latent = decoder.latents["latents"]["latents"][seen].astype(float)
        agrees(decoding, *by_hand(latent, decoder.gallery.embeddings, seen))
        assert decoding.evoked is None
        ranks.append(decoding.rank)
    told = decoder.metrics("latents", "latents", 1)
    assert told.top1.successes == ranks.count(1)
    assert told.protocol == "concept centre"
    assert decoder.metrics("latents", "latents", 1) is told  # measured once


def test_ties_count_against_us():
    decoder = latents_decoder(np.eye(4, dtype=np.float32)[[0] * 9])
    embeddings = np.tile(np.float32([[0, 1, 0, 0]]), (9, 1))
    decoder.gallery = Gallery(decoder.gallery.candidates, embeddings)
    assert [decoder.decode("latents", "latents", f"p{i}", 1).rank for i in range(9)] == [9] * 9


def test_latents_do_not_have():
    decoder = latents_decoder()
    refuses(lambda: decoder.decode("1", "latents", "p1", 1), "'1'", "'latents'")
    refuses(lambda: decoder.decode("latents", "nice", "p1", 1), "'nice'")
    refuses(lambda: decoder.decode("latents", "latents", "p9", 1), "'p9'", "9")
    refuses(lambda: decoder.decode("latents", "latents", "p1", 80), "80")


def test_latents_to_json():
    decoder = latents_decoder()
    told = decoder.to_json(decoder.decode("latents", "latents", "p1", 1))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["simulated"] is False
    assert told["provenance"] == "my decoder"
    assert told["protocol"] == "concept centre"
    assert told["rank_by_chance"] == 5
    assert told["over_all_pictures"]["top1"]["chance"] == pytest.approx(1 / 9)
