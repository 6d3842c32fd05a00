"""The figures of a campaign, at the end of its tests."""

from tests.reliability.fuzzing import FIGURES
from tests.reliability.kills import KILLS


_COLUMNS = ("inputs", "refused", "read", "unnamed", "wrong", "traceback", "code run")


def pytest_terminal_summary(terminalreporter):
    write = terminalreporter.write_line
    if KILLS:
        write("\n| what is killed before a change of a file | kills |\n|---|--:|")
        for test, count in [*sorted(KILLS.items()), ("**all**", KILLS.total())]:
            write(f"| {test.removeprefix('test_').replace('_', ' ')} | {count} |")
    if not FIGURES:
        return
    write("")
    write(f"| reader | {' | '.join(_COLUMNS)} |")
    write("|---|" + "--:|" * len(_COLUMNS))
    totals = {name: sum(figures[name] for figures in FIGURES.values()) for name in _COLUMNS}
    for reader, figures in [*sorted(FIGURES.items()), ("**all**", totals)]:
        write(f"| {reader} | {' | '.join(f'{figures[name]:,}' for name in _COLUMNS)} |")
    slowest = max(figures["slowest"] for figures in FIGURES.values())
    most = max(figures["mebibytes"] for figures in FIGURES.values())
    write(f"slowest file: {slowest:.2f} s of a processor; most memory of a reader, beside what was there: {most} MiB")
