"""Kills before a file-changing call: what was killed is run again, and must end as a run that went through.

A kill is an exception that nothing here catches, raised before the n-th call that changes a file. What it cannot show
(a `finally` that clears away) is had by calls that clear away and do nothing after it.
"""

import builtins
import os
import shutil
from collections import Counter
from pathlib import Path


# Calls that change files, by module and name; whether to look at an open is decided by its mode.
CALLS = {os: ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "truncate"), shutil: ("rmtree",)}
KILLS = Counter()  # by test; printed at the end
CLEARING = {"unlink", "remove", "rmdir", "rmtree"}


class Killed(BaseException):
    """Ends the process that it is raised in, as far as a test can."""


def count_kill():
    KILLS[os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition("[")[0].partition(" ")[0]] += 1


class Kill:
    """Raise before the n-th change of a file below a folder; after it, nothing changes a file any more.

    Args:
        folder (`Path`): Only changes below it count.
        number (`int`): Which change is not made; 0 counts them all and kills none.
    """

    def __init__(self, folder, number=0):
        self.folder, self.number, self.count, self.originals = str(folder), number, 0, []

    def __enter__(self):
        for module, names in CALLS.items():
            for name in names:
                self._replace(module, name, getattr(module, name))
        self._replace(builtins, "open", builtins.open)
        self._replace(os, "open", os.open)
        self._replace(Path, "open", Path.open)
        return self

    def __exit__(self, kind, error, traceback):
        for module, name, original in self.originals:
            setattr(module, name, original)
        if kind is Killed:
            count_kill()
        return kind is Killed

    @property
    def is_dead(self):
        return 0 < self.number <= self.count

    def _replace(self, module, name, original):
        def changed(*args, **kwargs):
            place, mode = args[0], args[1] if len(args) > 1 else kwargs.get("mode", "r")
            if name == "open":
                is_change = bool(set("wax+") & set(mode)) if isinstance(mode, str) else bool(mode & os.O_CREAT)
            else:
                is_change = True
            if is_change and isinstance(place, str | Path) and str(Path(place).absolute()).startswith(self.folder):
                if self.is_dead and name in CLEARING:
                    return None
                self.count += 1
                if self.is_dead:
                    raise Killed
            return original(*args, **kwargs)

        self.originals.append((module, name, original))
        setattr(module, name, changed)


def read_tree(folder, leave_out=()):
    """Read all files below a folder, but locks, hidden files and those whose name is left out."""
    paths = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not any(part.startswith(".") or part in leave_out or part.endswith(".lock") for part in Path(name).parts)
    }


def check_kills(run, tmp_path, compare, every=1, check=lambda folder: None):
    """Kill a run before each of its changes of files, run it again, and compare with one that went through.

    Args:
        run (callable): Of a folder.
        tmp_path (`Path`): Where folders are made.
        compare (callable): From a folder to what must be equal.
        every (`int`, defaults to 1): Kill before every so many changes only; `make reliability` leaves none out.
        check (callable): Of the folder, right after the kill.

    Returns:
        `int`: Number of kills.
    """
    with Kill(tmp_path / "whole") as whole:
        run(tmp_path / "whole")
    expected, kills = compare(tmp_path / "whole"), 0
    for number in range(1, whole.count + 1, 1 if "KILL_BEFORE_EACH" in os.environ else every):
        folder = tmp_path / f"run{number}"
        with Kill(folder, number) as kill:
            run(folder)
        assert kill.is_dead, f"the run made fewer than {number} changes"
        check(folder)
        run(folder)
        assert compare(folder) == expected, f"killed before change {number}"
        shutil.rmtree(folder)
        kills += 1
    return kills
