"""However a verb ends, it ends in a sentence."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest
from safetensors import SafetensorError

from tests.factories import FAST
from trainer.cli import main as cli
from trainer.cli.main import main


def stop_with(monkeypatch, action):
    class Verb:
        @staticmethod
        def run(arguments):
            action()

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Verb)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


@pytest.mark.parametrize(("action", "code"), [(interrupt, 130), (terminate, 143)])
@pytest.mark.parametrize("verb", cli._VERBS)
def test_a_stopped_verb_says_how_to_continue(monkeypatch, capsys, verb, action, code):
    stop_with(monkeypatch, action)
    before = signal.getsignal(signal.SIGTERM)
    assert main([verb, "a b", "--seed", "1"]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith(f": rtd {verb} 'a b' --seed 1")
    assert ("continue with" in line) == (verb in ("train", "train-projection", "triplets", "index", "release"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interrupt_in_a_text_that_is_executed_ends_with_130(tmp_path):
    code = """import sys
from types import SimpleNamespace
from trainer.cli import main as cli
cli.importlib.import_module = lambda name: SimpleNamespace(run=lambda arguments: exec("raise KeyboardInterrupt"))
sys.exit(cli.main(["search"]))
"""
    (tmp_path / "interrupted.py").write_text(code)
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "interrupted"]
    assert subprocess.run(command, env=settings, capture_output=True, check=False).returncode == 130


@pytest.mark.parametrize(("action", "code"), [(interrupt, 130), (terminate, 143)])
def test_a_signal_that_a_library_takes_for_a_failed_import_is_a_signal(monkeypatch, capsys, action, code):
    def fail():
        try:
            action()
        except BaseException as error:
            raise ImportError("Could not import module 'AutoProcessor'") from error

    stop_with(monkeypatch, fail)
    assert main(["triplets"]) == code
    assert "AutoProcessor" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "token", [["--token", "s3cret"], ["--token=s3cret"], ["--tok", "s3cret"], ["--uri", "host=db password=s3cret"]]
)
def test_a_token_is_not_repeated(monkeypatch, capsys, token):
    stop_with(monkeypatch, interrupt)
    assert main(["index", *token, "images"]) == 130
    assert "s3cret" not in capsys.readouterr().err


def test_a_full_disk_says_how_to_continue(monkeypatch, capsys):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    stop_with(monkeypatch, fail)
    assert main(["triplets", "a b"]) == 2
    assert capsys.readouterr().err.endswith("free some space, then continue with: rtd triplets 'a b'\n")


def test_a_run_that_filled_the_disk_names_the_command_that_continues(monkeypatch, capsys):
    def fail():
        error = OSError("checkpoint-2 is complete: free some space and resume the run")
        error.errno = errno.ENOSPC
        raise error

    stop_with(monkeypatch, fail)
    assert main(["train", "a b"]) == 2
    assert capsys.readouterr().err.endswith("free some space and resume the run; continue with: rtd train 'a b'\n")


@pytest.mark.parametrize("error", [SafetensorError("header too small"), RecursionError("too deep")])
def test_a_damaged_file_is_no_traceback(monkeypatch, capsys, error):
    def fail():
        raise error

    stop_with(monkeypatch, fail)
    assert main(["search"]) == 2
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize("argument", [b"\xff.jpg", "half \ud83d"])
def test_an_argument_that_is_not_utf8_is_named(capsys, argument):
    assert main(["search", os.fsdecode(argument)]) == 2
    assert f"the argument {ascii(os.fsdecode(argument))} is not UTF-8" in capsys.readouterr().err


def test_a_name_that_is_not_utf8_does_not_end_the_output():
    code = r"from trainer.cli import main; main._run = lambda arguments: print('a \udcff'); main.main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a \\udcff\n", b"")


def test_an_error_of_another_pipe_is_told(monkeypatch, capsys):
    def fail():
        raise BrokenPipeError(32, "Broken pipe")

    stop_with(monkeypatch, fail)
    assert main(["index"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["triplets", "--help"]])
def test_an_output_that_nobody_reads_is_no_matter(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "trainer.cli.main", *arguments]
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True) as process:
        os.close(write)
        assert process.communicate()[1] == ""
    assert process.returncode in (0, 141)  # argparse hears nothing of it


def test_help_names_every_verb(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for verb in ("demo", "evaluate", "submit", "train", "train-projection", "search"):
        assert f"\n  {verb} " in shown


@pytest.mark.parametrize(
    "verb",
    ["demo", "diagnose", "evaluate", "interpolate", "search", "submit", "train", "train-projection", "triplets"],
)
def test_every_verb_explains_its_options(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert f"usage: rtd {verb}" in capsys.readouterr().out


def test_a_warning_is_a_sentence_shown_once_for_each_kind(monkeypatch):
    shown = []

    def warn():
        for count in (3, 4):
            text = f"{count} words are unknown, such as 'w{count}'."
            shown.append(warnings.formatwarning(text, UserWarning, "file.py", 1))

    stop_with(monkeypatch, warn)
    assert main(["search"]) == 0
    assert shown == ["warning: 3 words are unknown, such as 'w3'. (shown once)\n", ""]


def test_an_unknown_verb_is_named_with_the_nearest(capsys):
    assert main(["serach"]) == 2
    assert "unknown verb 'serach'; did you mean 'search'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["search", "evaluate", "train", "diagnose", "interpolate", "index", "app", "convert"])
def test_every_verb_names_the_model_of_a_run(triplets, folder, monkeypatch, capsys, verb):
    (folder.parent / "runs/rtd/model").mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    name = "runs/rtd"
    options = {
        "search": [name, "--gallery", "gallery", "--text", "x"],
        "evaluate": [name, "--benchmark", "small_world/mini"],
        "train": [name, "--triplets", triplets, "--output_dir", "out", *FAST],
        "diagnose": [name, "--benchmark", "small_world/mini", "-o", "out"],
        "interpolate": [name, "--alpha", "0.5", "-o", "out"],
        "index": [name, "--images", "gallery", "-o", "index"],
        "app": [name, "--gallery", "gallery"],
        "convert": ["file.pt", "--from", "lincir", "--clip", name, "-o", "out"],
    }
    assert main([verb, *options[verb]]) == 2
    message = "'runs/rtd' holds no model; it is a run: name 'runs/rtd/model'."
    assert capsys.readouterr().err == f"rtd {verb}: {message}\n"


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, capsys):
    (tmp_path / "x").write_text("")
    assert main(["demo", "-o", str(tmp_path / "x")]) == 2
    assert "x' is a file where a folder is needed" in capsys.readouterr().err
