import pytest

from trainer.publishing.provenance import read_stages


@pytest.mark.parametrize("record", ["{", "[1]", '{"stages": [1]}', '{"stages": [{}]}'])
def test_a_record_that_is_none_is_refused(tmp_path, record):
    (tmp_path / "provenance.json").write_text(record)
    with pytest.raises(ValueError, match="provenance.json' is "):
        read_stages(tmp_path)
