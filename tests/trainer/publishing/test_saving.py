import pytest

from modeling_rtd import RTDModel
from tests.factories import STAGES
from trainer.publishing.provenance import read_stages
from trainer.publishing.saving import save_rtd_model


def test_saving_replaces_a_model_and_nothing_else(folder, processor):
    model = RTDModel.from_pretrained(folder)
    save_rtd_model(model, processor, folder)
    assert read_stages(folder) == STAGES
    with pytest.raises(ValueError, match="holds something that is not a model"):
        save_rtd_model(model, processor, folder.parent)
    assert folder.is_dir()


def test_a_text_tower_is_not_taken_for_a_model(folder, processor, tmp_path):
    with pytest.raises(ValueError, match="RTDTextModel is not a whole model.*rtd_model"):
        save_rtd_model(RTDModel.from_pretrained(folder).text_model, processor, tmp_path / "model")
