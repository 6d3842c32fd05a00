"""Results for a card: what `rtd evaluate`, `rtd diagnose` and `rtd demo` have written about the very model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import validate_repo_id

from modeling_rtd import read_json, suggest
from trainer.publishing.tables import format_table


__all__ = ["read_results", "sort_results", "write_eval_results"]

_RECORD = {"benchmark", "comparable", "data", "deviations", "metrics", "numbers", "parts", "protocol", "split"}
_ABOUT = {"benchmark", "k", "split"}


def read_results(paths: Sequence[str | Path], hashes: Mapping[str, str], repo: str) -> dict[str, dict | list]:
    """Read results, and refuse those of another model and those that come twice.

    Args:
        paths (`Sequence[str | Path]`):
            Records of `rtd evaluate`, `diagnosis.json` of `rtd diagnose`, `metrics.json` of `rtd demo`.
        hashes (`Mapping[str, str]`): Of the parts of the model, see [`hash_parts`].
        repo (`str`): Hub id that is in them for the model's place.

    Returns:
        `dict[str, dict | list]`: By name of the file.

    Raises:
        ValueError: If a file is none of these or judges other weights, or two have one name or state the same.
    """
    results: dict[str, dict | list] = {}
    for path in map(Path, paths):
        try:
            # Of any kind, since the demo's rows are a list.
            content = _check_result(path, read_json(path, "judge the model again", object), hashes, repo)
        except OSError as error:
            raise ValueError(f"'{path}' cannot be read as results: {error}") from error
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"'{path}' is not a result: give records of `rtd evaluate`, diagnosis.json of `rtd diagnose` or "
                "metrics.json of `rtd demo`."
            ) from error
        if path.name in results:
            raise ValueError(f"two results are named '{path.name}', and only one of them would go up: rename one.")
        twin = next((name for name, other in results.items() if _name_subject(other) == _name_subject(content)), None)
        if twin is not None:
            raise ValueError(f"'{twin}' and '{path.name}' state the same about the model: give one of them.")
        results[path.name] = content
    return results


def sort_results(results: Mapping[str, dict | list]) -> dict:
    """Sort results as a card takes them.

    Args:
        results (`Mapping[str, dict | list]`): What [`read_results`] gives.

    Returns:
        `dict`: `evaluations`, `diagnosis` and `comparison` of [`CardFacts`].
    """
    contents = list(results.values())
    return {
        "evaluations": [content for content in contents if isinstance(content, dict) and "system" in content],
        "diagnosis": next((c for c in contents if isinstance(c, dict) and "about" in c), None),
        "comparison": next((content for content in contents if isinstance(content, list)), ()),
    }


def write_eval_results(
    results: Mapping[str, dict | list], benchmark_data: Mapping[str, str], repo: str
) -> dict[str, bytes]:
    """Write results on benchmarks that are Hub data sets, as the Hub reads them for leaderboards.

    Args:
        results (`Mapping[str, dict | list]`): What [`read_results`] gives.
        benchmark_data (`Mapping[str, str]`):
            By name of a benchmark its data set, `org/name`, or `org/name:task` where its `eval.yaml` names several.
        repo (`str`): Hub id of the model.

    Returns:
        `dict[str, bytes]`: Files of the folder `.eval_results`, with the first metric of each record in percent.

    Raises:
        ValueError: If no result or several are of a benchmark that is named, or its data set is not a Hub id.
    """
    evaluations, files = sort_results(results)["evaluations"], {}
    records = {record["benchmark"]: record for record in evaluations}
    for name, place in benchmark_data.items():
        if name not in records:
            raise ValueError(suggest("benchmark of the results", name, records))
        if (count := [record["benchmark"] for record in evaluations].count(name)) > 1:
            raise ValueError(f"{count} results are of '{name}', and a leaderboard takes one: give one (--results).")
        dataset, _, task = place.partition(":")
        validate_repo_id(dataset)
        # One metric, since an entry of the Hub holds one value.
        (metric, value), record = next(iter(records[name]["metrics"].items())), records[name]
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task or "default",
            value=round(100 * value, 2),
            source_url=f"https://huggingface.co/{repo}",
            source_name="rtd evaluate",
            notes=f"{metric} on {record['split']}, percent" + "".join(f"; {text}" for text in record["deviations"]),
        )
        content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        files[f".eval_results/{name.replace('/', '-')}.yaml"] = content.encode()
    return files


def _check_result(path: Path, content, hashes: Mapping[str, str], repo: str) -> dict | list:
    """Give a result with the Hub id for the place; what misses in it shows as one of Python's own errors."""
    if isinstance(content, list):
        if not any(row.get("sha256") == hashes for row in content):
            raise ValueError(
                f"'{path}' compares other weights than these, or does not say which, as demos of earlier versions; "
                "give that of the demo that made this model."
            )
        format_table(content)
        return content
    if "system" in content:
        _require(content, _RECORD)
        system = content["system"]
        # Records of development versions may have an alpha: they judge a tower between the two.
        if system.get("sha256") != hashes or system.get("alpha") is not None or system.get("mode") != "composed":
            judged = f"{system.get('name_or_path')}, mode {system.get('mode')}"
            raise ValueError(
                f"'{path}' judges other weights than these ({judged}); judge the model that is published, composed."
            )
        data = dict(content["data"])
        data["license"] = data.pop("licence", None) or data["license"]  # 0.1.0.dev0 spelled it in the British way
        return content | {"system": system | {"name_or_path": repo}, "data": data}
    about = content["about"]
    _require(about, _ABOUT)
    if any(about[f"{part}_sha256"] != hashes[part] for part in ("text_model", "projection")):
        raise ValueError(f"'{path}' diagnoses other weights than these; diagnose the model that is published.")
    return {"about": about | {"model": repo}, "alignment": content["alignment"]}


def _require(content: Mapping, names: set[str]) -> None:
    if missing := names - content.keys():
        raise KeyError(*missing)


def _name_subject(content: dict | list) -> tuple:
    """Name what a card states once: the demo's table, a diagnosis, a benchmark in one protocol."""
    if isinstance(content, list) or "about" in content:
        return (type(content),)
    return (content["benchmark"], content["split"], json.dumps(content["protocol"], sort_keys=True))
