import json
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("before", "module", "unwanted"),
    [
        # transformers itself imports accelerate where it finds it.
        ("from transformers import CLIPModel", "modeling_rtd", "peft datasets accelerate faiss matplotlib trainer"),
        ("", "trainer.cli.main", "torch transformers datasets matplotlib"),
    ],
)
def test_import_stays_light(before, module, unwanted):
    code = f"import json, sys\n{before}\nbefore = set(sys.modules)\nimport {module}\n"
    code += "print(json.dumps([*(set(sys.modules) - before)]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    assert module in imported
    assert not set(unwanted.split()) & set(imported)
