"""What a slot remembers, and that it fits into the model's positions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tests.engines.codec_lm.short_memory import Short  # noqa: E402
from tests.engines.sesame import tiny  # noqa: E402
from tests.engines.sesame.driving import RAW, Driver, loaded  # noqa: E402
from tests.engines.sesame.test_parity import continued  # noqa: E402
from tts_provider.engines.codec_lm import FinishReason, Join  # noqa: E402
from tts_provider.engines.sesame.core import KEPT_TURNS  # noqa: E402
from tts_provider.engines.sesame.ending import EndRules  # noqa: E402
from tts_provider.engines.sesame.prompt import TurnPrompt  # noqa: E402
from tts_provider.errors import EngineUnavailable  # noqa: E402

ALL_SILENT = EndRules(silence_dbfs=200.0, silent_frames=4, repeated_frames=None, tail_frames=3)
"""Everything counts as silence, so each sentence ends after its expected length."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, _quiet_torch: None) -> Path:
    """A checkpoint with room for 96 positions only."""
    return tiny.build(tmp_path_factory.mktemp("csm") / "narrow", positions=96)


def test_a_context_that_ends_in_junk_is_rebuilt_without_it_from_the_last_sentences(checkpoint: Path) -> None:
    driver = Driver(loaded(checkpoint, rules=ALL_SILENT))
    context = []
    for number, text in enumerate(["One.", "Two, two.", "Three."]):
        driver.join(0, text, 40, fresh=number == 0)
        driver.run()
        assert driver.finish[0] is FinishReason.SILENCE
        context.append((text, driver.codes[0]))
    driver.join(0, "Four comes.", 9, fresh=False)
    driver.step(9)
    assert driver.codes[0] == continued(checkpoint, context[-KEPT_TURNS:], "Four comes.", 9)


def test_a_sentence_that_ran_to_its_cap_is_forgotten(checkpoint: Path) -> None:
    driver = Driver(loaded(checkpoint))
    driver.join(0, "Runs on.", 7)
    driver.run()
    driver.join(0, "And next.", 6, fresh=False)
    driver.run()
    assert driver.codes[0] == continued(checkpoint, [], "And next.", 6)


def test_a_context_without_room_for_the_sentence_drops_its_oldest_sentences(narrow: Path) -> None:
    driver = Driver(loaded(narrow, rules=ALL_SILENT))
    context = []
    for number, text in enumerate(["The first of them.", "The second."]):
        driver.join(0, text, 40, fresh=number == 0)
        driver.run()
        context.append((text, driver.codes[0]))
    driver.join(0, "A third, longer one.", 40, fresh=False)
    driver.step(10)
    assert driver.codes[0] == continued(narrow, context[1:], "A third, longer one.", 10)


def test_no_row_ever_writes_beyond_the_last_position(narrow: Path) -> None:
    """A cap that does not fit is cut to the room there is, and the row in the next slot stays right."""
    driver = Driver(loaded(narrow, slots=2, rules=RAW))
    driver.join(0, "Far too long.", 500)
    driver.step(71)
    driver.join(1, "Meanwhile.", 9)  # the first ends before it, at the last position
    driver.run()
    positions = 96
    assert driver.finish[0] is FinishReason.LENGTH
    assert len(driver.codes[0]) + len(driver.model.tokens.turn(0, "Far too long.")) < positions
    assert driver.codes[1] == continued(narrow, [], "Meanwhile.", 9)


def test_a_sentence_for_which_there_is_no_memory_fails_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row beside it says what it would say alone, and so does the next in its slot, which begins anew."""
    model = loaded(checkpoint, slots=2)
    driver = Driver(model)
    driver.join(0, "One.", 12)
    driver.join(1, "Another, before.", 4)
    driver.step(4)
    with monkeypatch.context() as patch:
        patch.setattr(model._parts.frames, "prefill", Short(model._parts.frames.prefill, 1))
        [_, refused] = model.step([Join(1, TurnPrompt(model.tokens.turn(0, "Two."), 4, "", 0, 0.0, 20), 8, fresh=False)], [], 1)
    assert (refused.slot, refused.finish, refused.frames) == (1, FinishReason.MEMORY, 0)
    driver.leave(1)
    driver.join(1, "Two.", 8)
    driver.step(8)
    assert driver.codes[0] == continued(checkpoint, [], "One.", 12)
    assert driver.codes[1] == continued(checkpoint, [], "Two.", 8)


def test_rows_that_are_forgotten_after_a_step_without_memory_are_as_new(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(checkpoint, slots=2)
    driver = Driver(model)
    driver.join(0, "One.", 12)
    driver.join(1, "Another.", 12)
    driver.step(2)
    for part, method in (("mimi", "decode"), ("frames", "step")):
        with monkeypatch.context() as patch:
            owner = getattr(model._parts, part)
            patch.setattr(owner, method, Short(getattr(owner, method), 3))
            with pytest.raises(torch.OutOfMemoryError):
                driver.step(3)
        for slot, text in enumerate(["Two, two.", "Three."]):
            driver.leave(slot)
            driver.join(slot, text, 8)
        driver.step(8)
        for slot, text in enumerate(["Two, two.", "Three."]):
            assert driver.codes[slot] == continued(checkpoint, [], text, 8)
        driver.join(0, "One.", 12)
        driver.join(1, "Another.", 12)
        driver.step(1)


def test_a_checkpoint_of_another_rate_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Its speech would have another pitch."""
    folder = tmp_path / "other"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["codec_config"]["sampling_rate"] = 48_000
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(EngineUnavailable, match="48000 Hz, not at 24000"):
        loaded(folder)
