import torch

from trainer.encoding.processes import gather_embeds, share_batches


def test_batches_are_joined_in_order_and_kept(tmp_path):
    asked = []

    def encode(rows):
        asked.append(rows)
        return torch.tensor([[float(row)] for row in rows], dtype=torch.float64)

    for _ in range(2):
        joined = share_batches(encode, total=5, batch_size=2, folder=tmp_path / "new")
        assert joined.dtype == torch.float32
        assert joined[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert asked == [range(0, 2), range(2, 4), range(4, 5)]


def test_one_process_gathers_its_own_embeddings():
    embeds = torch.ones(2, 3, requires_grad=True)
    assert gather_embeds(embeds) is embeds
