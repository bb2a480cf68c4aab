"""Word error rate as an `evaluate` metric that loads offline, by path.

    metric = evaluate.load("eval/modules/wer")
    metric.compute(predictions=["hello word"], references=["hello world"])

`evaluate` copies this file elsewhere before it runs it, so it imports nothing of ours; a test
compares it with distill.metrics.error_rates. One import a line: the loader misreads `import a, b`.
"""

import datasets
import evaluate
import jiwer

_DESCRIPTION = """Word error rate of a corpus: substitutions, deletions and insertions over
all words of the references, as a fraction. Texts are compared as they come. Everything said
against an empty reference is an insertion."""

_ARGUMENTS = """
Args:
    predictions: list of str, what a model wrote.
    references: list of str, what was said.
Returns:
    float: errors per word of the references, 0 is perfect, above 1 is possible; None when the
    references hold no words.
"""

_CITATION = """@inproceedings{morris2004and,
  title={From WER and RIL to MER and WIL: improved evaluation measures for connected speech},
  author={Morris, Andrew Cameron and Maier, Viktoria and Green, Phil},
  booktitle={Interspeech},
  year={2004}
}"""


class WordErrorRate(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_ARGUMENTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        squeeze = [
            [" ".join(text.split()) for text in texts] for texts in (references, predictions)
        ]
        output = jiwer.process_words(*squeeze)
        expected = output.hits + output.substitutions + output.deletions
        errors = output.substitutions + output.deletions + output.insertions
        return errors / expected if expected else None
