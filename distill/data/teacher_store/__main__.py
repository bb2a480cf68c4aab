"""Look after a folder of teacher scores.

    python -m distill.data.teacher_store stats PATH [json=FILE]
    python -m distill.data.teacher_store verify PATH [n=20] [seed=0] [recipe=PATH/recipe.yaml]
    python -m distill.data.teacher_store repack PATH [megabytes=256]

stats   what is in it: views, rows, bytes by column, how much of the teacher's mass is kept
verify  reads every byte and compares checksums, then scores `n` random views again with the live
        teacher of the recipe; ends with code 1 if something differs. n=0: checksums only
repack  merges small shards into shards of about `megabytes` (10^6 bytes)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.data.files import write_json
from distill.endings import run as run_command

_KEYS: dict[str, dict[str, Any]] = {  # command: key and default
    "stats": {"json": ""},
    "verify": {"n": 20, "seed": 0, "recipe": ""},
    "repack": {"megabytes": 256.0},
}


def main(arguments: list[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if len(arguments) < 2 or arguments[0] not in _KEYS:
        raise ValueError(f"expected {'|'.join(_KEYS)} PATH [key=value ...], got "
                         f"{' '.join(arguments)!r}; --help says more")
    command, folder, options = arguments[0], Path(arguments[1]), arguments[2:]
    run = {"stats": _stats, "verify": _verify, "repack": _repack}[command]
    try:
        run(folder, **_parse(command, options))
    except OSError as error:  # of HDF5, too, which has no number
        raise ValueError(str(error)) from error


def _parse(command: str, options: list[str]) -> dict[str, Any]:
    values = dict(_KEYS[command])
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in values:
            keys = ", ".join(f"{key}=" for key in values)
            raise ValueError(f"{command} takes {keys}, got {option!r}")
        try:
            values[key] = type(values[key])(value)
        except ValueError:
            raise ValueError(f"{key} must be a number, got {value!r}") from None
    return values


def _stats(folder: Path, json: str) -> None:
    from distill.data.teacher_store.report import stats
    from distill.data.teacher_store.store import TeacherStore

    found = stats(TeacherStore(folder))
    copies = f" ({found['copies']:,} of them copies)" if found["copies"] else ""
    per_row = f", {found['bytes_per_row']:.1f} a row" if found["rows"] else ""
    print(f"{folder}: {found['views']:,} views{copies}, {found['rows']:,} rows, "
          f"{found['shards']:,} shards, {found['bytes']:,} bytes{per_row}")
    for name, size in found["bytes_by_column"].items():
        each = f"{size / found['rows']:10.1f} a row" if found["rows"] else ""
        what = "(their texts and places)" if name == "views" else ""
        print(f"  {name:<16}{size:>18,} bytes{each} {what}".rstrip())
    for temperature, kept in found.get("kept_mass", {}).items():
        shares = ", ".join(f"{part:.2%} of rows under {float(share):.0%}"
                           for share, part in kept["rows_below"].items())
        print(f"  kept at temperature {temperature}: {kept['mean']:.2%} of the teacher's mass; "
              f"{shares}")
    if json:
        write_json(json, found)


def _verify(folder: Path, n: int, seed: int, recipe: str) -> None:
    import numpy as np

    from distill.data.teacher_store.report import compare, failures
    from distill.data.teacher_store.store import TeacherStore

    path = Path(recipe or folder / "recipe.yaml")
    store = TeacherStore(folder)
    store.check(show_progress=True, remember=False)
    print(f"{folder}: {len(store.shards):,} shards match their checksums")
    every = store.all_rows()
    chosen = np.random.default_rng(seed).choice(every, min(n, len(every)), replace=False)
    if not len(chosen):
        return
    if not recipe and not path.is_file():
        raise ValueError(f"{path} is not there; say which recipe scored this store with "
                         "recipe=RECIPE, or n=0 to compare checksums only")
    from distill.methods import build_scorer, load_recipe

    scorer = build_scorer(load_recipe(recipe or str(path), []))
    differences = compare(store, np.sort(chosen).tolist(), _with_progress(scorer))
    for name, found in differences.items():
        if name == "indices":
            print(f"  {name}: {found.agreement:.2%} of the stored entries are the live teacher's")
        else:
            unit = " of mass" if name == "log_rest" else f" (of {found.scale:.4g})"
            print(f"  {name}: largest difference {found.largest:.3g}{unit}, in view {found.view}")
    if lines := failures(differences):
        raise ValueError(f"{folder} is not what this teacher says:\n  " + "\n  ".join(lines))
    print(f"{len(chosen):,} of {len(every):,} views scored again: the teacher still says the same")


def _with_progress(scorer):
    """The same scorer, a few views at a time."""
    from distill.progress import progress

    def score(texts: list[str]) -> list:
        starts = range(0, len(texts), 8)
        return [record for start in progress(starts, len(starts), "teacher", "batches")
                for record in scorer(texts[start:start + 8])]

    return score


def _repack(folder: Path, megabytes: float) -> None:
    from distill.data.teacher_store.repack import repack
    from distill.data.teacher_store.store import TeacherStore

    before = TeacherStore(folder)
    after = repack(folder, megabytes, show_progress=True)
    for word, store in (("before", before), ("after", after)):
        print(f"{word:>6}: {len(store.shards):,} shards, {store.num_bytes:,} bytes, "
              f"{store.num_views:,} views, {store.num_rows:,} rows")


if __name__ == "__main__":
    run_command(main)
