"""Pay for the teacher once: a folder of its scores of each view, read in microseconds.

A *view* is one fully determined training input, named by the canonical JSON of everything drawn for
it (`view_key`). What the teacher said is a few arrays with the same number of rows: tokens of a
transcript, frames, or one row for a whole clip. The store knows nothing of the model.

    store = TeacherStore("runs/NAME/scores", settings, create=True)
    for group in batches(store.missing(texts)):
        store.add(score(group))          # one sealed shard: whole or absent, never half
    store.seal()
    rows = store.rows(texts)             # once, then
    store.read(rows[7])                  # {column: array of its rows}, no copy

    python -m distill.data.teacher_store verify|stats|repack PATH
"""

from distill.data.teacher_store.disk import StoreError
from distill.data.teacher_store.shard import SCHEMA_VERSION, Record, digest_of, view_key
from distill.data.teacher_store.store import TeacherStore

__all__ = ["SCHEMA_VERSION", "Record", "StoreError", "TeacherStore", "digest_of", "view_key"]
