"""What the decoders read and are asked for: prompts, timestamps, padding."""

from dataclasses import replace

import pytest
import torch

from distill.data.manifest import Row
from distill.data.speech.windows import pack
from distill.data.views.draws import View
from distill.losses.token_losses import IGNORE
from distill.whisper.data.collate import TokenRow, TokenRules, pad
from distill.whisper.recipe import FilterConfig
from distill.whisper.special import SpecialTokens
from pseudo_label.filter import filter_rows

PLAIN = View("w1", timestamps=False, previous=False)
CONTEXT = 448


@pytest.fixture(scope="module")
def special(tiny_processor):
    return SpecialTokens(tiny_processor.tokenizer, None)


@pytest.fixture
def rules(special):
    return TokenRules(special, "en", "transcribe", CONTEXT, timestamps=True)


def label(special, text=(10, 11, 12), prompt=(20, 21), **changes) -> dict:
    """A kept label row with timestamps around its text and its prompt."""
    t = special.timestamp_begin
    return {
        "id": "w1", "language": None, "tokens": [t, *text, t + 100],
        "prompt": [t, *prompt, t + 50] if prompt else [],
    } | changes


def names(rules, tokens) -> list[int]:
    """Readable: special tokens by name."""
    known = {rules.special.start: "sot", rules.special.end: "eot", rules.special.previous: "prev",
             rules.special.no_timestamps: "notime", IGNORE: "-"}
    known |= {rules.special._find(f"<|{n}|>"): n for n in ("en", "de", "transcribe", "translate")}
    begin = rules.special.timestamp_begin
    return [known.get(t, f"t{t - begin}" if t >= begin else t) for t in tokens]


def read(rules, row, view=PLAIN) -> tuple[list, list]:
    tokens = rules(row, view)
    assert len(tokens.inputs) == len(tokens.labels)
    return names(rules, tokens.inputs), names(rules, tokens.labels)


def test_without_timestamps(rules, special):
    inputs, labels = read(rules, label(special))
    assert inputs == ["sot", "en", "transcribe", "notime", 10, 11, 12]
    assert labels == ["en", "transcribe", "notime", 10, 11, 12, "eot"]


def test_with_timestamps(rules, special):
    inputs, labels = read(rules, label(special), replace(PLAIN, timestamps=True))
    assert inputs == ["sot", "en", "transcribe", "t0", 10, 11, 12, "t100"]
    assert labels == [*inputs[1:], "eot"]


def test_labels_made_without_timestamps_never_have_any(rules, special):
    rules = replace(rules, timestamps=False)
    inputs, _ = read(rules, label(special, tokens=[10]), replace(PLAIN, timestamps=True))
    assert inputs == ["sot", "en", "transcribe", "notime", 10]


def test_one_prompt_token_and_no_loss_on_the_prompt(rules, special):
    """The reference writes <|startofprev|> twice (fault 3) and can mask nothing (fault 4)."""
    inputs, labels = read(rules, label(special), replace(PLAIN, previous=True))
    assert inputs == ["prev", 20, 21, "sot", "en", "transcribe", "notime", 10, 11, 12]
    assert labels == ["-", "-", "-", "en", "transcribe", "notime", 10, 11, 12, "eot"]
    without = rules(label(special), PLAIN)
    assert rules(label(special), replace(PLAIN, previous=True)).num_valid == without.num_valid


def test_a_prompt_has_timestamps_when_the_label_has(rules, special):
    view = replace(PLAIN, previous=True, timestamps=True)
    inputs, labels = read(rules, label(special), view)
    assert inputs[:6] == ["prev", "t0", 20, 21, "t50", "sot"]
    assert labels[:5] == ["-"] * 5 and labels[5] == "en"


def test_no_prompt_is_no_prompt(rules, special):
    for prompt in ((), None):
        row = label(special, prompt=prompt)
        assert read(rules, row, replace(PLAIN, previous=True)) == read(rules, row)
    row = label(special)
    del row["prompt"]
    assert read(rules, row, replace(PLAIN, previous=True)) == read(rules, row)


def test_prompts_stop_at_the_speaker(rules, special):
    """From packing to tokens: nothing of another speaker is ever a prompt (fault 2)."""
    rows = [Row(f"{i}", "a.wav", 20.0, text="x", speaker=s) for i, s in enumerate("aabb")]
    labels = [
        label(special, text=(30 + i,), id=w.id, previous=w.previous, truncated=False, label="x",
              reference="x", wer=0.0, cer=0.0, unit="word", prompt=())
        for i, w in enumerate(pack(rows, "w", "sequential"))
    ]
    kept, _ = filter_rows(labels, FilterConfig(), "en")
    view = replace(PLAIN, previous=True)
    assert [read(rules, row, view)[0][0] for row in kept] == ["sot", "prev", "sot", "prev"]
    assert [read(rules, row, view)[0][1] for row in kept] == ["en", 30, "en", 32]


def test_language_and_task(rules, special):
    inputs, _ = read(replace(rules, task="translate"), label(special, language="de"))
    assert inputs[:4] == ["sot", "de", "translate", "notime"]


def test_prompt_is_cut_to_half_the_context(rules, special):
    row = label(special, prompt=range(200)) | {"prompt": list(range(250)) * 2}
    tokens = rules(row, replace(PLAIN, previous=True))
    assert tokens.inputs[0] == special.previous
    assert tokens.inputs[1:224] == row["prompt"][-223:]  # the last 223: what was said just before
    assert tokens.inputs[224] == special.start


@pytest.mark.parametrize("length", [440, 442, 443, 444])
def test_prompt_gives_way_to_the_label(rules, special, length):
    row = label(special, tokens=[7] * length, prompt=range(100))
    tokens = rules(row, replace(PLAIN, previous=True))
    assert len(tokens.inputs) <= CONTEXT and tokens.labels[-1] == special.end
    assert tokens.num_valid == length + 4
    room = CONTEXT - len(rules(row, PLAIN).inputs)
    assert tokens.inputs.count(special.previous) == (room >= 2)


def test_a_label_longer_than_the_context(rules, special):
    fits = rules(label(special, tokens=[7] * 444), PLAIN)
    assert len(fits.inputs) == CONTEXT
    with pytest.raises(ValueError, match="label w1 has 445 tokens, the decoder's context is 448"):
        rules(label(special, tokens=[7] * 445), PLAIN)


def test_pad():
    rows = [TokenRow([1, 2, 3], [2, 3, 9]), TokenRow([4], [9])]
    inputs, labels = pad(rows, pad_token=9)
    assert inputs.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert labels.tolist() == [[2, 3, 9], [9, IGNORE, IGNORE]]
    assert inputs.dtype == labels.dtype == torch.int64
    assert [row.num_valid for row in rows] == (labels != IGNORE).sum(-1).tolist()


def test_padding_changes_nothing(rules, special, tiny_model):
    views = [PLAIN, replace(PLAIN, previous=True, timestamps=True)]
    rows = [rules(label(special, text=range(3)), views[0]),
            rules(label(special, text=range(40, 60)), views[1])]
    states = torch.randn(2, 1500, 32, generator=torch.Generator().manual_seed(0))

    def hidden(inputs, states):
        with torch.no_grad():
            return tiny_model.model.decoder(
                input_ids=inputs, encoder_hidden_states=states
            ).last_hidden_state

    together = hidden(pad(rows, special.end)[0], states)
    for index, row in enumerate(rows):
        alone = hidden(pad([row], special.end)[0], states[index : index + 1])[0]
        torch.testing.assert_close(together[index, : len(row.inputs)], alone, rtol=1e-4, atol=1e-4)
