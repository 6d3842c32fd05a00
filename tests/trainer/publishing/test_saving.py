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
