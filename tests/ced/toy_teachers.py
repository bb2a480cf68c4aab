"""Teachers of the tests: callables, named by recipes as toy_teachers:NAME."""

import numpy as np

CLASSES = ["bell", "cat", "dog"]


def loud(waves):
    """How loud each wave is, the same for every class but for a power."""
    level = np.array([np.clip(10 * np.sqrt(np.mean(np.square(w, dtype=np.float64))), 0, 1)
                      for w in waves])
    return level[:, None] ** np.arange(1, 4)


loud.classes = CLASSES


class Half:
    """Says half of everything; has classes in another order and one more."""

    classes = ["dog", "zebra", "cat", "bell"]

    def __call__(self, waves):
        return np.tile([0.2, 0.9, 0.4, 0.8], (len(waves), 1))


def logits(waves):
    return np.full((len(waves), 3), -3.0)


logits.classes = CLASSES


def nameless(waves):
    return np.tile([0.1, 0.2, 0.3, 0.4], (len(waves), 1))
