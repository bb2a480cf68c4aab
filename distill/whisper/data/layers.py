"""Which layers of a teacher students keep, and which of its states they learn from; no torch.

    choose_layers(4, 12, "student.decoder_layers")     # [0, 3, 7, 11]
"""

from __future__ import annotations

from distill.whisper.recipe import WhisperRecipe


def spaced_layers(total: int, keep: int) -> list[int]:
    """`keep` of `total` layers, maximally spaced, first and last included (1: the last alone).

    32 -> 2 is [0, 31]; 12 -> 4 is [0, 3, 7, 11]. The floor of evenly spaced points, like the
    published students.

    Raises:
        ValueError: keep is not in 1..total.
    """
    if not 1 <= keep <= total:
        raise ValueError(f"cannot keep {keep} of {total} layers")
    if keep == 1:
        return [total - 1]
    return [index * (total - 1) // (keep - 1) for index in range(keep)]


def choose_layers(choice: int | list[int] | None, total: int, key: str) -> list[int]:
    """Layers meant by a recipe: None (all), a count, or indices (-1 is the last).

    Raises:
        ValueError: names `key`; an index is out of range or comes twice.
    """
    if choice is None:
        return list(range(total))
    if isinstance(choice, int):
        if not 1 <= choice <= total:
            raise ValueError(f"{key} must be between 1 and {total}, got {choice}")
        return spaced_layers(total, choice)
    layers = [index + total if index < 0 else index for index in choice]
    if any(not 0 <= index < total for index in layers) or len(set(layers)) != len(layers):
        raise ValueError(
            f"{key} must be different layers between {-total} and {total - 1}, got {choice}"
        )
    return sorted(layers)


def inner_teacher_layers(decoder_layers: list[int]) -> list[int]:
    """Which teacher states the student's states between its layers should equal.

    What enters student layer i should be what entered the teacher layer it was copied from: for
    layers [0, 5] the first layer learns to do the work of layers 0 to 4, and the copied last one
    finds the input it knows. Values are indices into a list of states that starts with the
    embeddings, so `n` is what enters layer n.
    """
    return decoder_layers[1:]


def family_layers(recipe: WhisperRecipe, total: int) -> list[list[int]]:
    """Decoder layers of each student of `family.decoder_layers`.

    Args:
        total: decoder layers of the teacher.

    Raises:
        ValueError: a student wants layers that the teacher does not have, or two are the same.
    """
    found: list[list[int]] = []
    for choice in recipe.family.decoder_layers:
        layers = choose_layers(choice, total, "family.decoder_layers")
        if layers in found:
            raise ValueError("family.decoder_layers must be different students, got the layers "
                             f"{layers} twice")
        found.append(layers)
    return found


def states_to_learn(recipe: WhisperRecipe, layers: list[int]) -> list[int | str]:
    """Which decoder states of the teacher a student learns from. `n` is what enters layer n; "last"
    comes after the last norm.

    Args:
        layers: of the teacher's decoder, that the student keeps.
    """
    if recipe.loss.hidden_weight:
        return [*inner_teacher_layers(layers), "last"]
    return ["last"] if recipe.loss.kl_weight and recipe.scores.method == "decoder_state" else []


def states_to_store(recipe: WhisperRecipe, total: int) -> list[int | str]:
    """`states_to_learn` of the recipe's student and of all its family.

    Args:
        total: decoder layers of the teacher.
    """
    own = choose_layers(recipe.student.decoder_layers, total, "student.decoder_layers")
    found = {state for layers in (own, *family_layers(recipe, total))
             for state in states_to_learn(recipe, layers)}
    return [*sorted(found - {"last"}), *sorted(found & {"last"})]
