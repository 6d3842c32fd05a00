from trainer.training.projections.objective import Objective


def test_what_a_method_does_not_publish_is_left_to_the_arguments():
    objective = Objective(None, None, None)
    assert objective.decays("layers.0.bias") is True
    assert objective.create_scheduler(None, steps_per_epoch=10) is None
    assert objective.caption_embeddings is None
