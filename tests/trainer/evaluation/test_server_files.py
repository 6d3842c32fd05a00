"""Files for the servers: the official examples are in order."""

import json

from trainer.evaluation.server_files import check_submission


def test_example_submissions_are_in_order(shared, circo_root):
    examples = shared / "data/circo/submission_examples"
    assert check_submission(examples / "submission_test.json", circo_root) == ("circo test", [])
    for root in (shared / "data/circo", None):  # neither has the list of the gallery
        kind, problems = check_submission(examples / "submission_test.json", root)
        assert (kind, problems) == ("circo test (ids of images not compared with the gallery)", [])
    problems = check_submission(examples / "submission_val.json", circo_root)[1]
    assert problems[0].startswith("these are 220 queries, as many as the split val has")
    for metric in ("recall", "recall_subset"):
        demo = shared / f"data/cirr/demo_files/test1_pred_ranks_{metric}.json"
        assert check_submission(demo, shared / "data/cirr") == (f"cirr test1 {metric}", [])


def test_an_indented_file_exceeds_cirrs_limit(shared, tmp_path, oracle):
    demo = json.loads((shared / "data/cirr/demo_files/test1_pred_ranks_recall.json").read_text())
    path = tmp_path / "indented.json"
    path.write_text(json.dumps(demo, indent=4))
    assert path.stat().st_size == oracle("cirr_demo_files")["recall"]["bytes_if_indented_by_4"]
    problems = check_submission(path, shared / "data/cirr")[1]
    assert problems == ["the file has 5,893,103 bytes, and the server takes 5,000,000: write it without indentation."]
