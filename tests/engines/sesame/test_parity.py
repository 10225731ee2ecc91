"""The own frame loop says what the library's `generate()` says: the same codes, in fp32, frame for frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tests.engines.sesame import tiny  # noqa: E402
from tests.engines.sesame.conftest import ENDING_FRAMES, ENDING_TEXT  # noqa: E402
from tests.engines.sesame.driving import Driver, loaded  # noqa: E402
from tts_provider.engines.codec_lm import FinishReason  # noqa: E402
from tts_provider.engines.sesame.frame import FrameModel  # noqa: E402
from tts_provider.engines.sesame.weights import load_weights  # noqa: E402

Turn = tuple[str, str, "np.ndarray[Any, Any] | None"]


def generate(oracle: Any, checkpoint: Path, turns: list[Turn], frames: int, **settings: Any) -> list[list[int]]:
    """The frames that the library makes of a conversation, at most `frames`."""
    with torch.no_grad():
        made = oracle.generate(**tiny.oracle_inputs(checkpoint, turns), max_new_tokens=frames, **settings)
    codes: list[list[int]] = made[0].tolist()
    return codes


def said(oracle: Any, checkpoint: Path, text: str, frames: int, speaker: int = 0) -> list[list[int]]:
    return generate(oracle, checkpoint, [(str(speaker), text, None)], frames)


@pytest.mark.parametrize("text", ["No.", "It was the best of times, it was the worst of times."])
def test_greedy_codes_equal_generate(checkpoint: Path, oracle: Any, text: str) -> None:
    driver = Driver(loaded(checkpoint))
    driver.join(0, text, 15)
    driver.run()
    assert driver.codes[0] == said(oracle, checkpoint, text, 15)
    assert driver.finish[0] is FinishReason.LENGTH


def test_greedy_codes_equal_generate_with_32_codebooks(tmp_path: Path) -> None:
    """As many as the real model has."""
    full = tiny.build(tmp_path / "full", codebooks=32)
    driver = Driver(loaded(full))
    driver.join(0, "All of them.", 6)
    driver.run()
    model = tiny.library.CsmForConditionalGeneration.from_pretrained(full).eval()
    assert len(driver.codes[0][0]) == 32
    assert driver.codes[0] == said(model, full, "All of them.", 6)


@pytest.mark.parametrize("contexts", [1, 2])
def test_greedy_codes_equal_generate_after_turns_with_audio(checkpoint: Path, oracle: Any, contexts: int) -> None:
    """One and two turns of recorded context: text, frames and zero frame stand where the library puts them."""
    noise = np.random.default_rng(5)
    turns: list[Turn] = [
        (str(index), f"Turn {index}.", noise.standard_normal(24000 + 5000 * index).astype(np.float32) * 0.1)
        for index in range(contexts)
    ]
    weights = load_weights(checkpoint, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        model = FrameModel(weights, rows=1)
        start = 0
        for speaker, text, audio in turns:
            codes = weights.codec.encode(torch.from_numpy(audio)[None, None]).audio_codes[0].T
            for embedded in (model.embed_text(ids(checkpoint, speaker, text)), model.embed_frames(codes)):
                model.prefill(0, start, embedded)
                start += len(embedded)
            model.prefill(0, start, model.embed_frames(torch.zeros(1, tiny.CODEBOOKS, dtype=torch.int64)))
            start += 1
        model.prefill(0, start, model.embed_text(ids(checkpoint, "0", "And now?")))
        model.moving[0] = 1
        own = [model.step(1, 128)[0].tolist() for _ in range(10)]
    assert own == generate(oracle, checkpoint, [*turns, ("0", "And now?", None)], 10)


def ids(checkpoint: Path, speaker: str, text: str) -> list[int]:
    found: list[int] = tiny.oracle_inputs(checkpoint, [(speaker, text, None)])["input_ids"][0].tolist()
    return found


def test_a_voice_prompt_is_computed_once_and_continues_as_generate_would(
    checkpoint: Path, oracle: Any, voices_folder: tuple[Path, np.ndarray[Any, Any]]
) -> None:
    """Two requests of one voice, both from the copied keys and values, equal full prefills of prompt and text."""
    folder, samples = voices_folder
    driver = Driver(loaded(checkpoint, slots=2, voices=folder))
    driver.join(0, "First one.", 8, voice="male")
    driver.step(3)
    driver.join(1, "And another.", 8, voice="male")
    driver.run()
    for slot, text in enumerate(["First one.", "And another."]):
        context: list[Turn] = [("0", "So it goes.", samples), ("0", text, None)]
        assert driver.codes[slot] == generate(oracle, checkpoint, context, 8)


def test_five_requests_that_join_and_leave_three_slots_say_what_they_say_alone(checkpoint: Path, oracle: Any) -> None:
    driver = Driver(loaded(checkpoint, slots=3))
    texts = ["One.", "Two, or more of it.", "Three is here.", "Four came late.", "Five."]
    driver.join(0, texts[0], 6)
    driver.step(2)
    driver.join(1, texts[1], 14)
    driver.step(1)
    driver.join(2, texts[2], 9)
    driver.step(4)  # the first has ended meanwhile, and stays in its slot
    first = driver.codes[0]
    driver.leave(0)
    driver.join(0, texts[3], 10)
    driver.step(2)
    driver.leave(2)  # cut off in the middle
    driver.join(2, texts[4], 5)
    driver.run()
    assert first == said(oracle, checkpoint, texts[0], 6)
    assert driver.codes[1] == said(oracle, checkpoint, texts[1], 14)
    assert driver.codes[0] == said(oracle, checkpoint, texts[3], 10)
    assert driver.codes[2] == said(oracle, checkpoint, texts[4], 5)


def test_a_context_longer_than_what_its_neighbours_look_at_is_seen_whole(checkpoint: Path, oracle: Any) -> None:
    """The rows look at as many positions as the longest of those that run needs; a short row must not shorten them."""
    text = (
        "A sentence that is long enough to take well over a hundred and twenty-eight positions, letter by letter, as it does."
    )
    driver = Driver(loaded(checkpoint, slots=2))
    driver.join(0, "Short.", 20)
    driver.join(1, f"{text} {text[:40]}", 6)
    driver.run()
    assert len(driver.model.tokens.turn(0, f"{text} {text[:40]}")) > 128
    assert driver.codes[0] == said(oracle, checkpoint, "Short.", 20)
    assert driver.codes[1] == said(oracle, checkpoint, f"{text} {text[:40]}", 6)


def test_several_frames_in_one_step_are_the_same_frames(checkpoint: Path, oracle: Any) -> None:
    driver = Driver(loaded(checkpoint, slots=2))
    driver.join(0, "One call, many frames.", 11)
    driver.join(1, "Short.", 3)
    driver.run(frames=4)
    assert driver.codes[0] == said(oracle, checkpoint, "One call, many frames.", 11)
    assert driver.codes[1] == said(oracle, checkpoint, "Short.", 3)
    assert len(driver.sound(0)) == 11 * 1920


def test_sampled_codes_equal_generate_for_the_same_seed(checkpoint: Path, oracle: Any) -> None:
    torch.manual_seed(1234)
    settings = {"do_sample": True, "temperature": 0.9, "top_k": 20}
    depth = {f"depth_decoder_{name}": value for name, value in settings.items()}
    before = dict(vars(oracle.depth_decoder.generation_config))
    try:
        expected = generate(oracle, checkpoint, [("0", "Roll the dice.", None)], 12, **settings, **depth)
    finally:  # generate() leaves depth settings behind for its next caller
        vars(oracle.depth_decoder.generation_config).update(before)
    driver = Driver(loaded(checkpoint))
    driver.join(0, "Roll the dice.", 12, seed=1234, temperature=0.9, top_k=20)
    driver.run()
    assert driver.codes[0] == expected
    assert expected != said(oracle, checkpoint, "Roll the dice.", 12), "sampling must differ from greedy for this to tell"


def test_a_seed_gives_the_same_codes_whatever_runs_beside_it(checkpoint: Path) -> None:
    alone = Driver(loaded(checkpoint))
    alone.join(0, "Mine.", 10, seed=5, temperature=0.9)
    alone.run()
    crowd = Driver(loaded(checkpoint, slots=3))
    crowd.join(0, "Others talk.", 20, seed=1, temperature=1.2)
    crowd.step(3)
    crowd.join(2, "Mine.", 10, seed=5, temperature=0.9)
    crowd.join(1, "And greedy ones.", 7)
    crowd.run()
    assert crowd.codes[2] == alone.codes[0]


def test_the_model_ends_by_itself_before_its_all_zero_frame(ending: Path) -> None:
    driver = Driver(loaded(ending))
    driver.join(0, ENDING_TEXT, 30)
    driver.run()
    assert driver.finish[0] is FinishReason.STOP
    model = tiny.library.CsmForConditionalGeneration.from_pretrained(ending).eval()
    assert [*driver.codes[0], [0] * tiny.CODEBOOKS] == said(model, ending, ENDING_TEXT, 30)
    assert len(driver.sound(0)) == ENDING_FRAMES * 1920


def test_the_next_sentence_in_the_slot_equals_a_full_prefill_of_all_before_it(ending: Path) -> None:
    """In place are appended: the zero frame (by the step that ended), and the new text. Nothing is encoded again."""
    model = loaded(ending)
    driver = Driver(model)
    driver.join(0, ENDING_TEXT, 30)
    driver.run()
    first = driver.codes[0]
    driver.join(0, "Then more.", 10, fresh=False)
    driver.run()
    assert driver.codes[0] == continued(ending, [(ENDING_TEXT, first)], "Then more.", 10)


def continued(checkpoint: Path, context: list[tuple[str, list[list[int]]]], text: str, frames: int) -> list[list[int]]:
    """What the library's modules say after a context of codes: one prefill, then `frames` greedy frames."""
    model = tiny.library.CsmForConditionalGeneration.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        parts = []
        for before, codes in context:
            parts.append(model.embed_text_tokens(torch.tensor([ids(checkpoint, "0", before)])))
            parts.append(model.backbone_model.embed_tokens(torch.tensor([[*codes, [0] * tiny.CODEBOOKS]])))
        parts.append(model.embed_text_tokens(torch.tensor([ids(checkpoint, "0", text)])))
        embedded = torch.cat(parts, dim=1)
        made: list[list[int]] = []
        for _ in range(frames):
            state = model.backbone_model(inputs_embeds=embedded).last_hidden_state[:, -1]
            first = model.lm_head(state)[:, : tiny.CODES].argmax(-1)
            codes = model.depth_decoder.generate(
                input_ids=torch.nn.functional.pad(first[:, None], (1, 0)), backbone_last_hidden_state=state.clone()
            )[:, 1:]
            made.append(codes[0].tolist())
            embedded = torch.cat([embedded, model.backbone_model.embed_tokens(codes[:, None])], dim=1)
    return made


def test_zeros_in_all_codebooks_but_the_last_end_the_speech_without_a_junk_frame(ending: Path, tmp_path: Path) -> None:
    """generate() stops there too, but returns the frame as 80 ms of noise; and the context gets the frame that was learned."""
    crafted = tiny.spoil_last_zero(ending, tmp_path / "crafted")
    driver = Driver(loaded(crafted))
    driver.join(0, ENDING_TEXT, 30)
    driver.run()
    assert driver.finish[0] is FinishReason.STOP
    assert len(driver.codes[0]) == ENDING_FRAMES
    model = tiny.library.CsmForConditionalGeneration.from_pretrained(crafted).eval()
    with torch.no_grad():
        audio = model.generate(**tiny.oracle_inputs(crafted, [("0", ENDING_TEXT, None)]), output_audio=True)
    assert len(audio[0]) == (ENDING_FRAMES + 1) * 1920, "the library's junk frame: if it is gone, this test is too"
    first = driver.codes[0]
    driver.join(0, "Go on.", 6, fresh=False)
    driver.run()
    assert driver.codes[0] == continued(crafted, [(ENDING_TEXT, first)], "Go on.", 6)


def test_reserved_ids_are_never_said(checkpoint: Path, tmp_path: Path) -> None:
    """Ids that the codec has no entry for win everywhere in this checkpoint; the engine masks them all the same."""
    driver = Driver(loaded(tiny.prefer_reserved(checkpoint, tmp_path / "reserved"), slots=2))
    driver.join(0, "Greedy.", 5)
    driver.join(1, "Sampled.", 5, temperature=1.5)
    driver.run()
    assert max(max(frame) for slot in (0, 1) for frame in driver.codes[slot]) < tiny.CODES


def test_audio_equals_decoding_all_codes_at_once(checkpoint: Path, oracle: Any) -> None:
    driver = Driver(loaded(checkpoint, slots=2))
    driver.join(1, "Something before.", 4)
    driver.step(2)
    driver.join(0, "Heard in pieces.", 30)
    driver.step(8)
    driver.leave(1)
    driver.join(1, "Another in the same row.", 12)
    driver.run()
    for slot in (0, 1):
        with torch.no_grad():
            codes = torch.tensor(driver.codes[slot]).T[None]
            whole = oracle.codec_model.decode(codes).audio_values[0, 0].numpy()
        assert np.abs(driver.sound(slot) - whole).max() <= 1e-5 * np.abs(whole).max()
