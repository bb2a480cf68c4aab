"""Text to text: a sequence-to-sequence model (Marian, NLLB, M2M100, ...) as a second teacher.

    translate = Translator(recipe.translation)
    translate(["Hola. Adiós."], ["es"])    # [Translation("Hello. Goodbye.", -0.2, ...)]

Such models were trained on sentences and tend to lose some of several, so texts are translated
sentence by sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import regex
import torch

from distill.data.hub_ids import check_hub_id
from distill.metrics.normalize import error_unit
from distill.whisper.recipe import TranslationConfig

_MOST_SCORES = 50_000_000  # numbers in the logits of one forward pass
_CONTEXT = 512  # tokens, of models without position embeddings
_TOKENS_PER_TOKEN, _MORE_TOKENS = 3, 16  # a translation longer than that has gone wrong

# After .!? and the like, unless what follows goes on in lower case or what precedes is a title or
# an initial; anywhere after the marks of scripts without spaces.
_TITLES = r"Mrs?|Ms|Dra?|Sra?|Srta|St|Prof|Hr|Fr|Mme|Mlle|No|Nr|\p{Lu}"
_SENTENCE_END = regex.compile(
    rf"""(?<=[.!?…।॥۔؟።]["'»”’)\]]*)(?<!\b(?:{_TITLES})\.)\s+(?=[^\p{{Ll}}\s])"""
    r"""|(?<=[。！？][」』”’）]*)(?![。！？」』”’）])""",
    regex.VERSION1,
)


@dataclass(frozen=True)
class Translation:
    """A translated text.

    Attributes:
        avg_logprob: mean over its tokens, ends of sentences included, nats.
        truncated: a sentence was cut at the length limit.
    """

    text: str
    avg_logprob: float
    truncated: bool


def sentences(text: str) -> list[str]:
    """Sentences of a text, stripped; none of an empty text."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part and part.strip()]


def locate_translator(config: TranslationConfig) -> tuple[str, str]:
    """Folder of the model and its revision: commit of the Hub, or a hash of the weights' names,
    sizes and the configuration.

    Raises:
        ValueError: neither a folder nor, in the Hub's cache or on the Hub, an id.
    """
    from huggingface_hub import snapshot_download

    from distill.data.files import hash_of

    folder = Path(config.model)
    if folder.is_dir():
        files = sorted(p for p in folder.iterdir() if p.is_file())
        return str(folder), hash_of([[p.name, p.stat().st_size] for p in files]
                                    + [(folder / "config.json").read_text()])
    check_hub_id(config.model, "translation.model")
    try:
        found = snapshot_download(config.model, revision=config.revision,
                                  ignore_patterns=["*.h5", "*.msgpack", "*.ot", "*.onnx"])
    except Exception as error:  # the Hub's many ways to refuse; shown to the user
        where = f"{config.model}@{config.revision or 'main'}"
        raise ValueError(
            f"translation.model: {where} is no folder and cannot be had from the Hub "
            f"({type(error).__name__}); download it where a Hub is reachable"
        ) from None
    return found, Path(found).name


class Translator:
    """A frozen text model with its tokenizer.

    Raises:
        ValueError: see `locate_translator`; also no such target language, or a tokenizer whose
            library is not installed.
    """

    def __init__(self, config: TranslationConfig):
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.config = config
        folder, self.revision = locate_translator(config)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        except (ImportError, ValueError) as error:
            raise ValueError(f"translation.model: its tokenizer does not load ({error}); some need "
                             "the extra: pip install 'audio-distill[translate]'") from None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.first_token = self._first_token()
        self.context = getattr(model.config, "max_position_embeddings", None) or _CONTEXT

    def __call__(self, texts: Sequence[str], languages: Sequence[str]) -> list[Translation]:
        """Translate texts, each from its own language (Whisper's codes).

        The result does not depend on the order of the texts beyond rounding: sentences of like
        length are translated together.
        """
        parts = [(index, sentence) for index, text in enumerate(texts)
                 for sentence in sentences(text)]
        order = sorted(range(len(parts)),
                       key=lambda i: (languages[parts[i][0]], -len(parts[i][1]), i))
        done: dict[int, tuple[str, float, int, bool]] = {}
        size = self.config.batch_size
        while order:
            language = languages[parts[order[0]][0]]
            batch = [i for i in order[:size] if languages[parts[i][0]] == language]
            found = self._translate([parts[i][1] for i in batch], language)
            done |= dict(zip(batch, found, strict=True))
            order = order[len(batch):]
        return [self._join([done[i] for i, (owner, _) in enumerate(parts) if owner == index])
                for index in range(len(texts))]

    def _join(self, found: list[tuple[str, float, int, bool]]) -> Translation:
        glue = "" if error_unit(self.config.target) == "char" else " "
        tokens = sum(count for _, _, count, _ in found)
        mean = sum(logprob for _, logprob, _, _ in found) / tokens if tokens else 0.0
        text = glue.join(text.strip() for text, *_ in found)
        return Translation(text, mean, any(cut for *_, cut in found))

    @torch.inference_mode()
    def _translate(self, texts: list[str], language: str) -> list[tuple[str, float, int, bool]]:
        """(text, sum of log probabilities, tokens, cut) of every sentence."""
        tokenizer, config = self.tokenizer, self.config
        if hasattr(tokenizer, "src_lang"):
            tokenizer.src_lang = self._code(language)
        inputs = tokenizer([config.prefix + text for text in texts], return_tensors="pt",
                           padding=True, truncation=True, max_length=self.context).to(self.device)
        lengths = inputs["attention_mask"].sum(1)
        # a row's limit is its own: batches must not change what is written
        limits = (_TOKENS_PER_TOKEN * lengths + _MORE_TOKENS).clamp(max=self.context - 1)
        options = {} if self.first_token is None else {"forced_bos_token_id": self.first_token}
        output = self.model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            num_beams=config.num_beams, do_sample=False, early_stopping=config.num_beams > 1,
            max_new_tokens=int(limits.max()), max_length=None, **options)
        place = torch.arange(1, output.shape[1] + 1, device=self.device)
        is_end = (output[:, 1:] == self._end()) & (place[:-1] <= limits[:, None])
        whole = is_end.any(1)
        ends = torch.where(whole, is_end.int().argmax(1) + 1, limits)
        ends = ends.clamp(max=output.shape[1] - 1)
        sums, counts = self._score(inputs, output, ends)
        written = [tokenizer.decode(row[1 : n + 1], skip_special_tokens=True)
                   for row, n in zip(output, ends.tolist(), strict=True)]
        whole &= lengths < self.context
        return list(zip(written, sums, counts, (~whole).tolist(), strict=True))

    def _score(self, inputs, output: torch.Tensor, ends: torch.Tensor):
        """Sums of log probabilities and numbers of tokens, in one pass over what was written:
        `generate` would keep every score of every beam."""
        targets = output[:, 1:]
        # the language that was forced upon it is no choice of the model's
        first = int(self.first_token is not None)
        rows = max(1, _MOST_SCORES // (output.shape[1] * self.model.config.vocab_size))
        sums = []
        for at in range(0, len(output), rows):
            some = slice(at, at + rows)
            logits = self.model(
                input_ids=inputs["input_ids"][some], attention_mask=inputs["attention_mask"][some],
                decoder_input_ids=output[some, :-1]).logits.float()
            scores = -torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), targets[some], reduction="none")
            place = torch.arange(scores.shape[1], device=scores.device)
            counts = (place >= first) & (place < ends[some, None])
            sums += torch.where(counts, scores, 0.0).sum(1).tolist()
        return sums, (ends - first).clamp(min=1).tolist()

    def _end(self) -> int:
        end = self.model.generation_config.eos_token_id
        return end[0] if isinstance(end, list) else end

    def _code(self, language: str) -> str:
        return self.config.codes.get(language, language)

    def _first_token(self) -> int | None:
        """The token that tells a multilingual model what to write; None for one that is told
        otherwise, or knows a single target."""
        tokenizer, code = self.tokenizer, self._code(self.config.target)
        if not hasattr(tokenizer, "src_lang"):
            return None
        if hasattr(tokenizer, "get_lang_id"):  # M2M100, whose tokens are __en__
            known = getattr(tokenizer, "lang_code_to_id", {})
            token = tokenizer.get_lang_id(code) if code in known else None
        else:
            token = tokenizer.convert_tokens_to_ids(code)
            token = None if token == tokenizer.unk_token_id else token
        if token is None:
            raise ValueError(
                f"translation: the model knows no language {code!r}; say what it calls "
                f"{self.config.target!r} in translation.codes, e.g. {{en: eng_Latn}}"
            )
        return token
