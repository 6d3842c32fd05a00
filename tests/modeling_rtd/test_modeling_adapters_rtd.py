import pytest

from modeling_rtd import RTDModel
from trainer.training.lora import add_lora


def test_a_model_with_an_adapter_is_not_saved_as_a_whole(model, tmp_path):
    add_lora(model.text_model)
    with pytest.raises(ValueError, match="save_adapter"):
        model.save_pretrained(tmp_path)


def test_a_model_without_an_adapter_has_none_to_save(model, tmp_path):
    with pytest.raises(ValueError, match="no adapter"):
        model.save_adapter(tmp_path)


def test_an_adapter_is_not_loaded_as_a_whole_model(model, tmp_path, hub):
    add_lora(model.text_model)
    model.save_adapter(tmp_path / "adapter")
    hub.repos["org/adapter"] = {path.name: path.read_bytes() for path in (tmp_path / "adapter").glob("*.*")}
    message = r"adapter' is an adapter: load it with RTDModel.from_adapter\('.*adapter'\)"
    for place in (tmp_path / "adapter", "org/adapter"):
        with pytest.raises(ValueError, match=message):
            RTDModel.from_pretrained(place)
    with pytest.raises(ValueError, match=message):
        RTDModel.from_pretrained(tmp_path, subfolder="adapter")
