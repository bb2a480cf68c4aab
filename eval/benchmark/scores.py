"""How much of the KL's gradient survives when only some of the teacher's scores are kept.

    python -m eval.benchmark.scores RECIPE [key=value ...]        make bench.scores

For real windows, the recipe's teacher and the student it trained (or an untrained one), every way
of keeping scores (`distill.losses.targets`) is compared with the full KL: the error of its gradient
for the output layer (summed over tokens, as an update sees it: noise averages out, bias does not)
and for the decoder states (token by token), at what a token takes on disk. Writes
runs/bench/scores.json.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distill.losses.targets import METHODS, record_scores
from distill.losses.token_losses import IGNORE, TeacherScores, token_losses
from distill.progress import progress
from distill.whisper.data.collate import pad
from distill.whisper.data.layers import choose_layers
from distill.whisper.data.view_source import ViewSource
from distill.whisper.encoder.padded import encode
from distill.whisper.model import decoder_states
from distill.whisper.recipe import WhisperRecipe, load_recipe
from distill.whisper.student import make_student
from distill.whisper.teacher import load_teacher
from eval.benchmark.result import run_benchmark, write_result

KS = (8, 16, 32, 64, 128)
NUM_WINDOWS = 24
NUM_DRAWS = 4  # repetitions of what is drawn: their spread is noise, their mean's error is bias
OUT = Path("runs/bench/scores.json")


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    result = measure(load_recipe(arguments[0], arguments[1:]))
    write_result(OUT, result, table(result))


def measure(recipe: WhisperRecipe, num_windows: int = NUM_WINDOWS) -> dict:
    """All ways of keeping scores on `num_windows` windows of the recipe's labels."""
    teacher, student, tokens = _states(recipe, num_windows)
    weight = tokens["weight"]
    temperature = recipe.loss.temperature
    labels = tokens["labels"]

    def gradients(scores: TeacherScores) -> tuple[float, Tensor, Tensor]:
        hidden = tokens["student"].clone().requires_grad_()
        output = student.proj_out.weight.detach().clone().requires_grad_()
        total, _, kl = token_losses(hidden, output, labels, scores, ce_weight=0.0, kl_weight=1.0,
                                    temperature=temperature)
        total.backward()
        return kl.item() / len(labels), hidden.grad, output.grad

    exact = gradients(TeacherScores(hidden=tokens["teacher"], weight=weight))
    halves = tokens["teacher"].half().float()
    rows = [_row("decoder state", 0, 2 * weight.shape[1],
                 [gradients(TeacherScores(hidden=halves, weight=weight))], exact)]
    choices = [(method, k) for method in METHODS for k in KS]
    for method, k in progress(choices, len(choices), "comparing", "choices", True):
        found, masses, used = [], [], []
        for draw in range(1 if method == "top_k" else NUM_DRAWS):
            record = record_scores(tokens["teacher"], weight, method, k, [1.0, temperature], draw)
            values = record["values"].half()
            scores = TeacherScores(indices=record["indices"], values=values,
                                   log_rest=record["log_rest"][:, -1])
            found.append(gradients(scores))
            masses = (1 - record["log_rest"].exp()).mean(0).tolist()
            used.append(values.isfinite().sum(-1).float().mean().item())
        row = _row(method, k, 4 * k + 8, found, exact)
        row["ids_used"] = sum(used) / len(used)
        if method == "top_k":
            row["mass_kept"] = dict(zip(("1", f"{temperature:g}"), masses, strict=True))
        rows.append(row)
    return {"teacher": recipe.teacher.model, "student": tokens["name"],
            "num_windows": num_windows, "num_tokens": len(labels), "temperature": temperature,
            "kl_nats_per_token": exact[0], "split": "train", "dtype": "float32", "rows": rows}


def _states(recipe: WhisperRecipe, num_windows: int) -> tuple:
    """Teacher, student, and what both make of the valid tokens of the first windows."""
    teacher = load_teacher(recipe.teacher)
    model = teacher.model
    folder = Path(recipe.output_dir) / "student"
    if folder.is_dir():
        student = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    else:
        layers = choose_layers(recipe.student.decoder_layers, model.config.decoder_layers,
                               "student.decoder_layers")
        student = make_student(model, layers, list(range(model.config.encoder_layers))).eval()
    source = ViewSource(recipe, teacher.processor, model.generation_config,
                        model.config.max_target_positions)
    views = source.views_of_run()[:num_windows]
    parts: dict[str, list] = {"teacher": [], "student": [], "labels": []}
    for view in progress(views, len(views), "reading", "windows", True):
        inputs, labels = pad([source.tokens(view)], source.rules.special.end)
        states, valid = encode(model, source.features([view])), labels != IGNORE
        with torch.no_grad():
            parts["teacher"].append(decoder_states(model, inputs, states, ())[0][valid])
            parts["student"].append(decoder_states(student, inputs, states, ())[0][valid])
        parts["labels"].append(labels[valid])
    tokens = {name: torch.cat(each) for name, each in parts.items()}
    trained = "trained" if folder.is_dir() else "not trained yet"
    name = f"{student.config.decoder_layers} decoder layers, {trained}"
    return teacher, student, tokens | {"weight": model.proj_out.weight.detach(), "name": name}


def _row(method: str, k: int, num_bytes: int, found: list, exact: tuple) -> dict:
    """Relative errors of gradients; for several draws their mean, and the error of their mean."""
    def error(gradient: Tensor, right: Tensor) -> float:
        return ((gradient - right).norm() / right.norm()).item()

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "method": method, "k": k, "bytes_per_token": num_bytes,
        "kl_ratio": mean([each[0] for each in found]) / exact[0],
        "error_states": mean([error(each[1], exact[1]) for each in found]),
        "error_output": mean([error(each[2], exact[2]) for each in found]),
        "error_output_of_mean": error(sum(each[2] for each in found) / len(found), exact[2]),
        "num_draws": len(found),
    }


def table(result: dict) -> str:
    """`measure`'s result for a terminal."""
    names = {"decoder state": "decoder state (exact KL)", "top_k": "top k and the rest",
             "sampled": "sampled", "head_and_sampled": "head, sampled rest"}
    head = (f"{'what is kept':<26}{'k':>5}{'bytes':>7}{'ids':>7}{'mass T=1':>10}"
            f"{'mass T':>8}{'KL':>7}{'error, output layer':>21}{'error, states':>15}")
    lines = [
        f"Gradient of KL at T = {result['temperature']:g} against the full one: relative error "
        f"(Frobenius). {result['num_windows']} windows of the {result['split']} split, "
        f"{result['num_tokens']} tokens, {result['dtype']}, teacher {result['teacher']}, student "
        f"{result['student']}; KL {result['kl_nats_per_token']:.3f} nats a token",
        head,
    ]
    for row in result["rows"]:
        masses = [f"{mass:.1%}" for mass in row.get("mass_kept", {}).values()] or ["", ""]
        used = f"{row['ids_used']:.1f}" if "ids_used" in row else ""
        lines.append(
            f"{names[row['method']]:<26}{row['k'] or '':>5}{row['bytes_per_token']:>7}{used:>7}"
            f"{masses[0]:>10}{masses[-1]:>8}{row['kl_ratio']:>7.2f}"
            f"{row['error_output']:>21.1%}{row['error_states']:>15.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_benchmark(main)
