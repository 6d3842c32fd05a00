import pytest

from trainer.data.language_model import PROMPT, LanguageModel, parse_output


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        (" make it red => target: A Red dog\nmore", ("make it red", "a red dog")),
        ("condition: is red => target: a red dog", ("is red", "a red dog")),
        ("is red", None),
        ("is red => target:", None),
        ("is red => a red dog", None),
        ("is red => target: a dog => target: a cat", None),
        ("\n", None),
        ("word " * 31 + "=> target: a dog", None),
    ],
)
def test_outputs_are_parsed_strictly(output, parsed):
    assert parse_output(output) == parsed


def test_sampling_is_decided_by_the_seed(language_model_folder):
    write = LanguageModel(language_model_folder)
    prompts = [PROMPT.format(caption=caption) for caption in ("a dog", "a small red dress with sleeves")]
    assert write(prompts, 1) == write(prompts, 1) != write(prompts, 2)
