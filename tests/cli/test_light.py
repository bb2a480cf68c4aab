"""Help, plans and errors of a recipe come at once: nothing heavy is imported for them."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORE_HELP = ("import runpy; sys.argv[1:] = ['--help']; "
              "runpy.run_module('distill.data.teacher_store', run_name='__main__')")
WRONG_KEY = """
import distill.train, distill.whisper.recipe, pseudo_label.filter
from distill.config import ConfigError
from distill.methods import load_recipe
try: load_recipe('demo', ['train.max_step=1'])
except ConfigError: print('train.max_step')
"""
# In this order in one process: what one must not import, no earlier one may.
CASES = [  # what is run; what it prints, divided by |; what it must not import
    (STORE_HELP, "verify PATH [n=20]", ["h5py", "torch", "distill.methods"]),
    (WRONG_KEY, "train.max_step", ["torch", "transformers", "datasets", "soundfile"]),
    ("from distill.whisper.plan.sizes import find_size, num_parameters; "
     "print(num_parameters(find_size('openai/whisper-base')))", "72593920",
     ["torch", "transformers"]),
    ("from distill.plan import main; main(['demo']); main(['distil-large-v3'])", "Plan of",
     ["torch", "transformers", "datasets", "huggingface_hub"]),
    ("import distill.ced.recipe", "", ["torch"]),
    ("from eval.benchmark.roofline import run", "", ["torch"]),
    ("from distill.data.hub_dataset import main; main(['--help'])", "max_hours=|streaming=true",
     ["torch", "transformers", "datasets"]),
    ("from eval.benchmark.store import main; main(['--help'])", "make bench.store",
     ["torch", "transformers", "datasets", "safetensors"]),
]
RUN = """
import contextlib, io, json, sys
for code, says, heavy in json.loads(sys.argv.pop()):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {'sys': sys})
    missing = [words for words in says.split('|') if words not in printed.getvalue()]
    assert not missing, (code, missing, printed.getvalue())
    assert not set(heavy) & set(sys.modules), (code, set(heavy) & set(sys.modules))
"""


def test_nothing_heavy_is_imported():
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(CASES)], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


def test_that_it_would_be_noticed():
    heavy = [("import h5py", "", ["h5py"])]
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(heavy)], cwd=ROOT, text=True,
                          capture_output=True)
    assert "AssertionError: ('import h5py', {'h5py'})" in done.stderr
