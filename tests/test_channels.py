"""Names of channels, as devices and labs spell them, and the electrodes that they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import flat_montage

from nice_demo.montage import CHANNELS, REFERENCE
from nice_demo.sources.recordings.channels import match_channels

CAP = flat_montage(CHANNELS)


def one(name, montage=CAP):
    (match,) = match_channels([name], montage)
    assert match.name == name
    assert match.why.endswith(".")
    return match


# What EDF, BDF, EEGLAB, BrainVision and clinical systems write.
SPELLINGS = {
    "Fp1": "Fp1",
    "FP1": "Fp1",
    "fp1": "Fp1",
    " Fp1 ": "Fp1",
    "F p1": "Fp1",
    "CPZ": "CPz",
    "Fc5.": "FC5",  # EDF of PhysioNet's motor imagery
    "Cz..": "Cz",
    "EEG Fp1": "Fp1",
    "EEG FP1": "Fp1",
    "EEG Fp1-Ref": "Fp1",
    "EEG FP1-REF": "Fp1",  # Temple University Hospital
    "EEG O2-LE": "O2",
    "EEG:Oz": "Oz",
    "eeg_oz": "Oz",
    "EEGOz": "Oz",
    "Fp1-LE": "Fp1",
    "FP1-A1": "Fp1",
    "C3-M2": "C3",
    "C3:M2": "C3",
    "C3-A1A2": "C3",
    "Pz - Ref": "Pz",
    "Pz-Avg": "Pz",
    "T3": "T7",
    "t4": "T8",
    "EEG T5-LE": "P7",
    "T6-A2": "P8",
    "Fz": REFERENCE,
    "EEG FZ-REF": REFERENCE,
}


@pytest.mark.parametrize(("name", "electrode"), SPELLINGS.items())
def test_spellings(name, electrode):
    match = one(name)
    assert (match.electrode, match.sure) == (electrode, True)


@pytest.mark.parametrize(
    "name",
    ["Fp1-F7", "EEG Fpz-Cz", "EEG Pz-Oz", "C3-P3", "E1", "E128", "A1", "B7", "EEG 001", "01", "1",
     "ECG", "EOG1", "VEOG", "STI 014", "Status", "Trigger", "", " ", "-", "--", "EEG", "EEG-", ".",
     "Ref", "-Ref", "Fp3", "O", "z", "T1", "Fp1Fp2", "x" * 500],
)  # fmt: skip
def test_what_is_no_electrode(name):
    match = one(name)
    assert match.electrode is None
    assert len(match.why) < 150


@pytest.mark.parametrize(
    ("name", "electrode"), {"P07": "PO7", "p03": "PO3", "P0z": "POz", "Fp1-0": "Fp1"}.items()
)
def test_guesses_say_so(name, electrode):
    match = one(name)
    assert (match.electrode, match.sure) == (electrode, False)
    assert "check" in match.why


def test_two_claim_one_electrode():
    first, second, other = match_channels(["T3", "T7", "Cz"], CAP)
    assert (first.electrode, first.sure) == ("T7", False)
    assert (second.electrode, second.sure) == (None, False)
    assert "'T7'" in first.why and "'T3'" in second.why
    assert (other.electrode, other.sure) == ("Cz", True)


def test_numbers_that_tell_duplicates_apart():
    matches = match_channels(["O1-0", "O1-1"], CAP)
    assert [(m.electrode, m.sure) for m in matches] == [("O1", False), (None, False)]


def test_all_against_one_electrode():
    names = ["EEG Fp1-Pz", "EEG F3-Pz", "EEG O1-Pz", "EEG O2-Pz", "ECG"]
    matches = match_channels(names, CAP)
    assert [m.electrode for m in matches] == ["Fp1", "F3", "O1", "O2", None]
    assert not any(m.sure for m in matches[:4])
    assert "recorded against PZ as all others" in matches[0].why
    chain = ["Fp1-F7", "F7-T3", "T3-T5", "T5-O1", "Fp2-F8", "F8-T4", "T4-T6", "T6-O2"]
    assert not any(m.electrode for m in match_channels(chain, CAP))
    assert not any(m.electrode for m in match_channels(names[:3], CAP))


def test_a_device_s_own_letters_are_not_the_10_20_system():
    biosemi = [f"{letter}{number}" for letter in "ABCD" for number in range(1, 33)]
    assert not any(m.electrode for m in match_channels(biosemi, CAP))
    egi = [f"E{number}" for number in range(1, 129)]
    assert not any(m.electrode for m in match_channels(egi, CAP))
    # Two ear lobes make no scheme.
    matches = match_channels(["C3", "C4", "A1", "A2"], CAP)
    assert [m.electrode for m in matches] == ["C3", "C4", None, None]


def test_a_cap_s_own_names_come_first():
    cap = flat_montage(["E1", "E2", "T3", "A1"])
    assert [m.electrode for m in match_channels(["e1", "EEG E2-Ref", "T7", "A1"], cap)] == [
        "E1", "E2", "T3", "A1",
    ]  # fmt: skip


def test_the_whole_cap_in_any_order():
    names = [*CHANNELS[::-1], REFERENCE]
    assert [m.electrode for m in match_channels(names, CAP)] == names


@given(st.lists(st.text(max_size=12) | st.sampled_from([*SPELLINGS, *CHANNELS, "A1", "E7"])))
def test_whatever_the_names(names):
    matches = match_channels(names, CAP)
    assert [m.name for m in matches] == names
    found = [m.electrode for m in matches if m.electrode]
    assert len(found) == len(set(found))
    assert set(found) <= {*CHANNELS, REFERENCE}
    for match in matches:
        assert "\n" not in match.why
    # A name by itself is never less sure than among others of the same electrode.
    for match in matches:
        if match.sure and match.electrode:
            assert one(match.name).electrode == match.electrode


@given(st.sampled_from(CHANNELS), st.data())
def test_spelling_does_not_matter(electrode, data):
    name = data.draw(st.sampled_from([electrode, electrode.upper(), electrode.lower()]))
    before = data.draw(st.sampled_from(["", " ", "EEG ", "EEG-", "eeg "]))
    after = data.draw(st.sampled_from(["", " ", ".", "..", "-Ref", "-LE", "-A1", " - REF", "_ref"]))
    match = one(before + name + after)
    assert (match.electrode, match.sure) == (electrode, True)
