import pytest

from trainer.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "option", "nearest"),
    [
        ("search model --galery index --text red", "--galery", "--gallery"),
        ("index model --imgaes photos -o index", "--imgaes", "--images"),
        ("evaluate model --benchmrk cirr", "--benchmrk", "--benchmark"),
        ("publish model org/name --licnese mit", "--licnese", "--license"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest(arguments, option, nearest, capsys):
    assert main(arguments.split()) == 2
    assert f"unknown option '{option}'; did you mean '{nearest}'?" in capsys.readouterr().err


def test_a_beginning_and_a_text_with_hyphens_are_accepted(tmp_path, capsys):
    missing = str(tmp_path / "no-such-index")
    assert main(["search", "model", "--gal", missing, "--text", "--no pattern"]) == 2
    assert "unknown option" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [("search model --gallery index --top-k ten", "'ten'"), ("search model --text red", "--gallery")],
)
def test_a_wrong_value_and_a_missing_option_are_refused_in_one_line(arguments, named, capsys):
    assert main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rtd search: ")
    assert named in line


def test_what_has_a_place_is_not_an_option(capsys):
    assert main(["release", "--recipe", "rtd-vitl", "org"]) == 2
    assert "--recipe is given by its place, without its name: rtd release RECIPE REPO" in capsys.readouterr().err
