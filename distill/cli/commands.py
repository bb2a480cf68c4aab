"""The table of commands: name, module, and what it does. Nothing is imported here."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A module whose `main(arguments)` returns an exit code or None."""

    module: str
    about: str
    has_options: bool = False  # its --help is more than the docstring, or all it says without
    # arguments is not its --help
    is_distributed: bool = False  # takes --num-processes: that many run it
    finds_code: bool = False  # takes names of modules, also of the working directory


GROUPS = {
    "A recipe, step by step: RECIPE [key=value ...]": {
        "recipes": Command("distill.cli.recipes", "what recipes there are, and where", True),
        "run": Command("distill.cli.stages", "plan, label, train and eval, one after the other"),
        "plan": Command("distill.plan", "what would run: hours, parameters, disk, steps and time"),
        "scenes": Command("distill.data.scenes", "mix scenes of labelled sounds"),
        "questions": Command("pseudo_label.aqa", "closed-ended questions about labelled audio"),
        "no-speech": Command(
            "distill.audio_llm.data.no_speech", "clips without speech, as training rows"
        ),
        "read-aloud": Command(
            "distill.data.speech.read_aloud", "texts read aloud, for words that a corpus lacks"
        ),
        "label": Command(
            "pseudo_label",
            "pseudo-labels of the training audio, and the scores",
            is_distributed=True,
        ),
        "translate": Command(
            "pseudo_label.translate",
            "translate pseudo-labels with a text model",
            is_distributed=True,
        ),
        "filter": Command("pseudo_label.filter", "filter pseudo-labels anew"),
        "sweep": Command("pseudo_label.sweep", "what every threshold of the filter would keep"),
        "scores": Command(
            "pseudo_label.scores", "the teacher's scores of every view", is_distributed=True
        ),
        "train": Command(
            "distill.train", "train the student, after scores that are missing", is_distributed=True
        ),
        "eval": Command("eval", "measure teacher and student on the test split, and report"),
        "family": Command(
            "eval.family", "several students from one store, and which one to take for a budget"
        ),
        "twin": Command("eval.prompts.twin", "train a student's twin that never sees a prompt"),
        "prompts": Command("eval.prompts", "whether a student does what its prompts say"),
        "robustness": Command("eval.robustness", "teacher and student in noise, and in silence"),
        "export": Command("distill.export", "copies for other runtimes, verified there"),
        "push": Command("distill.hub", "publish the student on the Hub"),
        "push-labels": Command("pseudo_label.push", "publish the pseudo-labels on the Hub"),
    },
    "Data": {
        "import": Command(
            "distill.data.hub_dataset", "a Hub dataset, a folder or a table -> a manifest"
        ),
        "classes": Command(
            "distill.data.class_folders", "a folder of audio for each class -> manifests"
        ),
        "store": Command(
            "distill.data.teacher_store", "stats, verify or repack a folder of teacher scores"
        ),
    },
    "Models": {
        "transcribe": Command("eval.transcribe", "text or subtitles of audio files", True),
        "tag": Command("eval.tag", "what is heard in audio files", True, finds_code=True),
        "ask": Command("eval.audio_llm.ask", "an audio language model about files", True),
        "doctor": Command("eval.audio_llm.doctor", "does an audio language model listen?"),
        "ltu-as": Command("eval.audio_llm.ltu_as", "the seven evaluations of LTU-AS", True),
        "label-set": Command(
            "eval.label_set",
            "thresholds and F1 of another set of classes",
            True,
            finds_code=True,
        ),
        "probe": Command(
            "eval.linear_probe",
            "a linear classifier on a tagger's embeddings",
            True,
            finds_code=True,
        ),
        "fetch": Command("distill.whisper.teacher", "download the teacher of a recipe now"),
        "convert": Command(
            "distill.ced.convert", "published CED weights -> a folder, and back", True
        ),
        "short-audio": Command(
            "eval.speech.short_audio", "how much silence a model needs behind short clips", True
        ),
        "report": Command("eval.report", "the HTML page of a run: RUN_FOLDER"),
        "plots": Command("eval.plots", "the pictures of a model card: RUN_FOLDER"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
