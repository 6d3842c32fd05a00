"""The command `rtd`: one verb a file, each imported only when it is called."""

from __future__ import annotations

import difflib
import importlib
import pickle
import sys


__all__ = ["main"]

_VERBS = {
    "demo": "train every part on a small embedded world and show what RTD does",
    "triplets": "make text triplets from your captions",
    "train-projection": "train a projection on your captions or images",
    "train": "train RTD on your text triplets",
    "convert": "turn a published checkpoint file into a model",
    "evaluate": "judge a model or another system on benchmarks, or check their directories",
    "submit": "write or check files for the test servers of CIRR and CIRCO",
    "diagnose": "tell what a model's numbers on a benchmark mean",
    "interpolate": "save a model between the text towers from before and after RTD",
    "index": "encode a folder of images once, or take over embeddings",
    "search": "find images of a folder or an index by a reference image and a sentence",
    "app": "search and refine on a page in the browser",
    "publish": "put a model on the Hub, with its code and a card of recorded facts",
}


def _write_help() -> str:
    verbs = "\n".join(f"  {name:<18}{text}" for name, text in _VERBS.items())
    return f"usage: rtd VERB [options]\n\n{verbs}\n\nrtd VERB --help tells the options of a verb."


def main(arguments: list[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments (`list[str]`, *optional*): Command line without the program's name; that of the process by default.

    Returns:
        `int`: 0 where all went well, 2 where the input was refused.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print(_write_help())
        return 0
    if verb not in _VERBS:
        close = difflib.get_close_matches(verb, _VERBS, n=1)
        hint = f" did you mean '{close[0]}'?" if close else ""
        print(f"rtd: unknown verb '{verb}';{hint}\n\n{_write_help()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"trainer.cli.{verb.replace('-', '_')}")
    try:
        module.run(arguments[1:])
    except pickle.UnpicklingError:
        # torch's own words advise to load the file all the same.
        print(
            f"rtd {verb}: refused: a weights file is a pickle that holds more than tensors, and loading it could run "
            "code. Use a repository with safetensors.",
            file=sys.stderr,
        )
        return 2
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        print(f"rtd {verb}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
