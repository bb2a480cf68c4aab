"""Measure a student against its teacher; never trains.

    python -m eval RECIPE              decode the test split with both, write results.json
    python -m eval.report RUN_FOLDER   one self-contained HTML page about a run

Always `from eval.module import name`: `import eval` would hide the builtin.
"""
