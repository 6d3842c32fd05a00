"""The command `rtd`: one verb a file, each imported only when it is called."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import pickle
import re
import select
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

from safetensors import SafetensorError


__all__ = ["main"]

_VERBS = {
    "demo": "train every part on a small drawn world and show what RTD does",
    "triplets": "make text triplets from your captions",
    "train-projection": "train a projection on your captions or images",
    "train": "train RTD on your text triplets",
    "convert": "turn a published checkpoint file into a model",
    "evaluate": "judge a model or another system on benchmarks, or check their folders",
    "submit": "write or check files for the test servers of CIRR and CIRCO",
    "diagnose": "explain a model's numbers on a benchmark",
    "interpolate": "save a model between the text towers from before and after RTD",
    "index": "encode a folder of images once, or import embeddings",
    "search": "find images of a folder or an index by a reference image and a sentence",
    "app": "search and refine on a page in the browser",
    "serve": "answer composed queries over HTTP",
    "export": "write a model as ONNX files that run without torch",
    "release": "train, judge and publish the model of a recipe, in one command",
    "publish": "upload a model to the Hub, with its code and a card of recorded facts",
}
# Verbs that continue where they were stopped when they are called again.
_RESUMING = {"triplets", "train-projection", "train", "index", "release"}


def _write_help() -> str:
    verbs = "\n".join(f"  {name:<18}{text}" for name, text in _VERBS.items())
    return f"usage: rtd VERB [options]\n\n{verbs}\n\nrtd VERB --help lists the options of a verb."


class _Terminated(SystemExit):
    """SIGTERM; in a process that the verb starts, it ends that process silently."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments (`list[str]`, *optional*): Command line without the program's name; that of the process by default.

    Returns:
        `int`: 0 where all went well, 2 where the input was refused, 130 after Ctrl-C, 143 after SIGTERM, 141 where
        nobody reads the output any more.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # one that a host program has put there
            stream.reconfigure(errors="backslashreplace")  # names of files may be no text
    if foreign := [text for text in arguments if any("\ud800" <= letter <= "\udfff" for letter in text)]:
        print(
            f"rtd: the argument {ascii(foreign[0])} is not UTF-8; rename the file, or correct the text.",
            file=sys.stderr,
        )
        return 2
    try:
        with _listen_to_sigterm(), _word_warnings():
            try:
                return _run(arguments)
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt:
        # After a Ctrl-C in an `exec` of text, as in a dataclass, `python -m` would end by the signal and not with 130.
        exec("")
        return _word_stop("interrupted", arguments, 130)
    except _Terminated:
        return _word_stop("terminated", arguments, 143)
    except BrokenPipeError as error:
        if not _is_output_closed():  # it was another pipe, such as a connection
            print(f"rtd: {error}", file=sys.stderr)
            return 2
        return 141


def _run(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print(_write_help())
        return 0
    if verb not in _VERBS:
        close = difflib.get_close_matches(verb, _VERBS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        print(f"rtd: unknown verb '{verb}'{hint}\n\n{_write_help()}", file=sys.stderr)
        return 2
    try:
        with _find_stops():
            importlib.import_module(f"trainer.cli.{verb.replace('-', '_')}").run(arguments[1:])
    except BrokenPipeError:
        raise
    except pickle.UnpicklingError:
        from modeling_rtd import word_pickle

        print(f"rtd {verb}: {word_pickle('a weights file', 'Use one in safetensors.')}", file=sys.stderr)
        return 2
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
            error = f"'{error.filename}' is a file where a folder is needed; name another."
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "" if "free some space" in str(error) else "free some space, then "
        hint = f"; {remedy}{_word_again(arguments)}" if is_full else ""
        print(f"rtd {verb}: {error}{hint}", file=sys.stderr)
        return 2
    except (SafetensorError, RecursionError) as error:
        print(f"rtd {verb}: a file that was read is damaged ({error}); copy or download it again.", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def _listen_to_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that locks, partial files and processes are cleared away."""

    def stop(number, frame):
        raise _Terminated(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextlib.contextmanager
def _find_stops() -> Iterator[None]:
    """Raise a signal again that a library took for a failure of its own: transformers says that an import failed."""
    try:
        yield
    except Exception as error:
        cause = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt | _Terminated):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None


@contextlib.contextmanager
def _word_warnings() -> Iterator[None]:
    """Print a warning to the user as a sentence, without the line of code that it comes from, and each kind once."""
    earlier, kinds = warnings.formatwarning, set()

    def format_warning(message, category, *place):
        if category is not UserWarning:
            return earlier(message, category, *place)
        kind = re.sub(r"\d+|, such as .*", "", str(message))  # counts and words differ from batch to batch
        if kind in kinds:
            return ""
        kinds.add(kind)
        return f"warning: {message} (shown once)\n"

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = earlier


def _word_stop(what: str, arguments: list[str], code: int) -> int:
    print(f"\nrtd {arguments[0] if arguments else ''}: {what}; {_word_again(arguments)}", file=sys.stderr)
    return code


def _word_again(arguments: list[str]) -> str:
    """Say how to continue. Tokens and connection strings are not repeated: what is printed may be kept in a log."""
    parts = [_hide_secret(*pair) for pair in zip(["", *arguments], arguments, strict=False)]
    again = "continue with" if arguments[:1] and arguments[0] in _RESUMING else "start again with"
    return f"{again}: {shlex.join(['rtd', *parts])}"


def _hide_secret(before: str, part: str) -> str:
    """Hide a token, and a URI, which may hold a password. Options may be abbreviated."""

    def is_secret(option: str) -> bool:
        return len(option) > 2 and any(name.startswith(option) for name in ("--token", "--uri"))

    option, _, value = part.partition("=")
    if is_secret(before):
        return "..."
    return f"{option}=..." if value and is_secret(option) else re.sub(r"(postgres(?:ql)?://).*", r"\1...", part)


def _is_output_closed() -> bool:
    try:
        output = sys.stdout.fileno()
        poll = select.poll()  # a pipe without a reader is in error; one that was flushed in vain may forget it
    except (OSError, AttributeError):
        return False
    poll.register(output, 0)
    if is_closed := bool(poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes once more when it ends
    return is_closed


if __name__ == "__main__":
    sys.exit(main())
