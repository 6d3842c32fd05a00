import pytest
import torch
from transformers import TrainerCallback

from modeling_rtd import RTDModel, RTDProcessor
from trainer.worlds.small_world import build_small_world, build_tokenizer, train_clip


@pytest.mark.parametrize(
    ("family", "row"), [("metaclip_2", [0, "a", "red", "star", 2]), ("siglip", ["a", "red", "star", 3])]
)
def test_a_world_has_a_backbone_of_each_family(family, row, tmp_path):
    losses = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            losses.append(state.global_step)

    clip, tokenizer, image_processor = train_clip(
        build_small_world("toy"), output_dir=tmp_path, callbacks=[Watch()], family=family
    )
    assert len(losses) == (10 if family == "siglip" else 8)
    assert clip.config.model_type == family
    processor = RTDProcessor.from_clip(str(tmp_path))
    assert processor.family == family
    ids = [tokenizer.convert_tokens_to_ids(word) if isinstance(word, str) else word for word in row]
    assert processor.tokenize_texts(["A red star"]) == [ids]
    model = RTDModel.from_clip(str(tmp_path))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    if family == "siglip":
        # Half of the scale, below zero, and two steps from there.
        assert clip.logit_bias.item() == pytest.approx(-0.5 * clip.logit_scale.exp().item(), abs=0.1)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="did you mean 'siglip'"):
        build_tokenizer("toy", "siglipp")
