from trainer.publishing.tables import METRICS, format_table, write_cell


def row(variant, seed, value):
    return {"variant": variant, "seed": seed, **dict.fromkeys(METRICS, value)}


def test_one_seed_gives_percent_alone():
    assert format_table([row("rtd", 0, 0.125)]).splitlines()[-1] == "| rtd | 12.5 | 12.5 | 12.5 | 12.5 | 12.5 |"


def test_several_seeds_give_mean_and_sample_deviation():
    table = format_table([row("rtd", 0, 0.1), row("rtd", 1, 0.2), row("other", 0, 0.0), row("other", 1, 0.0)])
    assert table.splitlines()[-2].split(" | ")[1] == "15.0 ± 7.1"  # sqrt(((10 - 15)^2 + (20 - 15)^2) / 1)
    assert table.splitlines()[-1].startswith("| other | 0.0 ± 0.0")


def test_a_cell_is_one_line_and_ends_where_its_text_does():
    assert write_cell("a | b\n c") == "a \\| b c"


def test_recall_of_captions_is_a_column_where_a_row_has_it():
    lines = format_table([row("rtd", 0, 0.1), row("other", 0, 0.1) | {"caption_recall@5": 0.25}]).splitlines()
    assert lines[0].endswith("| captions R@5 |")
    assert [line.split(" | ")[-1] for line in lines[2:]] == [" |", "25.0 |"]
