"""Damaged files from whole ones, and what a reader may do with them.

A reader does right by a file if it gives what the file says, or refuses it: a `ValueError` or an `OSError` (which
`rtd` prints as one sentence) whose text names the file. Everything else is a traceback.
"""

import copy
import json
import resource
import time
import warnings
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


SECONDS = 2  # of a processor, for one file
MEBIBYTES = 1024  # more than before, at most, in a whole campaign
_CLEAR = Path("/proc/self/clear_refs")
FIGURES = {}  # of each reader; printed at the end of the tests

_BITS = [b"null", b"[]", b"{}", b"NaN", b"-1", b"1e999", b"true", b'"\\ud83d"', b"\xff\xfe", b"\0", b"[" * 3000]
_BITS += [b'{"a":' * 3000, b"9" * 5000, b"(((", b"&a *a", b"!!python/name:os.system", b",", b'"', b"\n", b": ", b""]
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [10**20, -(10**400), 0.5, float("nan"), float("inf"), "", "a", "a\0b", "\ud83d", "../x", "1" * 999]
    )
    | st.sampled_from(["EVIL", "http://127.0.0.1:9/x", "/dev/zero", "__class__", "float16", "torch"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["a", "id", ""]), part, max_size=2),
    max_leaves=4,
)


@st.composite
def damage(draw, seed: bytes):
    """Cut, repeat, overwrite and insert parts of a file."""
    content = bytearray(seed)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        end = place + draw(st.sampled_from([0, 1, 2, 8, 64, 10**6]))
        change = draw(st.sampled_from(["cut", "flip", "drop", "repeat", "insert", "replace"]))
        if change == "cut":
            del content[place:]
        elif change == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "drop":
            del content[place:end]
        elif change == "repeat":
            content[place:place] = content[place:end][:4096]
        else:
            content[place : end if change == "replace" else place] = draw(st.sampled_from(_BITS))
    return bytes(content)


@st.composite
def rewrite(draw, seed: bytes):
    """Put another value, or none, in one place of a file of JSON, or of one of its lines."""
    lines = [seed] if seed[:1] in b"[{" and _is_json(seed) else seed.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    content = {"": json.loads(lines[number])}
    place, key = draw(st.sampled_from(list(_list_places(content))))
    if draw(st.booleans()) or key == "":
        place[key] = copy.deepcopy(draw(_VALUES))
    else:
        del place[key]
    lines[number] = json.dumps(content[""]).encode()
    return b"\n".join(lines)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _list_places(content):
    for key in content if isinstance(content, dict) else range(min(len(content), 5)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _list_places(content[key])


def fuzz(name, path, read, is_right=None, count=200, extra=(), mark=None, names=()):
    """Damage a file in many ways, the same at every run, and count what its reader does with it.

    Args:
        name (`str`): Of the reader, in the figures.
        path (`Path`): A whole file. It is whole again at the end.
        read (callable): Reads it, or what it is a part of.
        is_right (callable, *optional*): Of what was read and the bytes: whether they agree. Anything is right if not
            given.
        count (`int`, defaults to 200): Files, and as many again where it is JSON.
        extra (iterable of `bytes`): Further files.
        mark (`Path`, *optional*): A file that code in a file would make.
        names (iterable of `str`): What a refusal may name in place of the file or its folder.
    """
    seed, figures = path.read_bytes(), FIGURES.setdefault(name, Counter())
    kinds = [damage(seed)] + ([rewrite(seed)] if path.suffix in (".json", ".jsonl") else [])
    problems, names = [], (path.stem, path.parent.name, *names)
    _try(read, path, seed, is_right, names)  # what a first reading imports is not counted
    before = _reset_peak()

    def check(content):
        path.write_bytes(content)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = _try(read, path, content, is_right, names)
        figures["inputs"] += 1
        kind = outcome.partition(":")[0]
        figures[kind] += 1
        seconds = time.process_time() - start
        figures["slowest"] = max(figures["slowest"], seconds)
        if kind not in ("read", "refused") or seconds > SECONDS:
            problems.append(f"{outcome} after {seconds:.1f} s of {content[:300]!r}")

    for content in (seed, *extra):
        check(content)
    for kind in kinds:
        run = given(kind)(check)
        settings(
            max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=HealthCheck
        )(run)()
    path.write_bytes(seed)
    assert (whole := _try(read, path, seed, is_right, names)) == "read", whole
    figures["mebibytes"] = max(figures["mebibytes"], (_read_peak() - before) // 1024)
    figures["code run"] = int(mark is not None and mark.exists())
    assert not problems, f"{len(problems)} of {figures['inputs']} files: " + "\n".join(problems[:20])
    assert not figures["code run"]
    assert figures["mebibytes"] < MEBIBYTES


def _reset_peak() -> int:
    """Forget the peak of memory that earlier tests have set, where the system can."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")
    return _read_peak()


def _read_peak() -> int:
    """Kibibytes: the highest resident memory of this process."""
    if not _CLEAR.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def _try(read, path, content, is_right, names):
    try:
        value = read(path)
    except (ValueError, OSError) as error:
        text = str(error)
        return f"refused: {text}" if any(name in text for name in names) else f"unnamed: {error!r}"
    except Exception as error:
        return f"traceback: {error!r}"
    return "read" if is_right is None or is_right(value, content) else f"wrong: {str(value)[:200]}"
