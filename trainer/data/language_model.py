"""Language model that writes edits of captions: what it is asked, and how its answer is read."""

from __future__ import annotations

import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from modeling_rtd import name_damage, refuse_outside
from trainer.data.captions import clean_caption


__all__ = ["PROMPT", "LanguageModel", "parse_output"]

PROMPT = """Write a short instruction that changes one thing in a picture, and the caption of the changed picture.

caption: a man rides a brown horse on the beach
condition: make the horse white => target: a man rides a white horse on the beach

caption: two dogs sleeping on a couch
condition: replace the dogs with a cat => target: a cat sleeping on a couch

caption: a bowl of soup with a spoon on a table
condition: remove the spoon => target: a bowl of soup on a table

caption: {caption}
condition:"""
_OUTPUT = re.compile(r"(?:condition:)?\s*([^=>:]+?)\s*=>\s*target:\s*([^=>:]+?)\s*")


class LanguageModel:
    """A local causal language model that continues prompts by sampling; called, it answers [`PROMPT`].

    Args:
        name (`str`): Directory or Hub id.
    """

    def __init__(self, name: str):
        with name_damage(name):
            values, _ = PreTrainedConfig.get_config_dict(name)
            refuse_outside(name, values)
            # A causal model goes on where a row ends, so padding belongs in front.
            self.tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", trust_remote_code=False)
        # GPT-Neo, which wrote SEARLE's phrases, has no token for padding.
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device).eval()
        self.name = name

    def __call__(self, prompts: list[str], seed: int) -> list[str]:
        """Continue each prompt up to the end of a line, by at most 64 tokens; the seed decides the draws."""
        length = self._encode(prompts)["input_ids"].shape[1]

        def find_line_ends(ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
            return torch.tensor(["\n" in text.lstrip() for text in self._decode(ids[:, length:])], device=ids.device)

        # 0 switches off transformers' own top_k of 50, which would cut the nucleus.
        sampling = {"temperature": 0.7, "top_p": 0.95, "top_k": 0, "max_new_tokens": 64}
        ids = self._sample(prompts, seed, **sampling, stopping_criteria=[find_line_ends])
        return self._decode(ids[:, length:])

    def continue_prompt(self, prompt: str, count: int, seed: int, max_tokens: int, **sampling) -> list[str]:
        """Continue one prompt several times.

        Args:
            prompt (`str`): The prompt.
            count (`int`): Number of texts.
            seed (`int`): Decides the draws.
            max_tokens (`int`): Length of a text in tokens, prompt included; at least one token is added.
            sampling: Passed to `generate`, such as `temperature`.

        Returns:
            `list[str]`: Texts with their prompt.
        """
        # transformers refuses a limit that the prompt fills already.
        max_length = max(max_tokens, self._encode([prompt])["input_ids"].shape[1] + 1)
        return self._decode(
            self._sample([prompt], seed, max_length=max_length, num_return_sequences=count, **sampling)
        )

    @torch.no_grad()
    def _sample(self, prompts: list[str], seed: int, **options) -> torch.Tensor:
        # Draws depend on the seed alone, and the caller's random state stays.
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            options |= {"do_sample": True, "pad_token_id": self.tokenizer.pad_token_id}
            return self.model.generate(**self._encode(prompts), **options)

    def _encode(self, prompts: list[str]):
        # Models without token types refuse them.
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        return batch.to(self.model.device)

    def _decode(self, ids: torch.Tensor) -> list[str]:
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)


def parse_output(text: str) -> tuple[str, str] | None:
    r"""Read condition and target from what a language model wrote after [`PROMPT`].

    Only the first line counts, and it must be `condition => target: caption` as a whole, with at most 30 words of
    condition and 75 of caption. What else there is may be a model rambling.

    Args:
        text (`str`): Output of the model, without the prompt.

    Returns:
        `tuple[str, str]`, or `None` where the line is of another form.

    Examples:
        >>> parse_output(" make the dog white => target: a white dog on a couch\n\ncaption: two")
        ('make the dog white', 'a white dog on a couch')
        >>> parse_output(" make the dog white") is None
        True
    """
    found = _OUTPUT.fullmatch(text.strip().partition("\n")[0])
    # Longer ones are not instructions, or exceed the 77 tokens that CLIP takes.
    if not found or len(found[1].split()) > 30 or len(found[2].split()) > 75:
        return None
    return found[1], clean_caption(found[2])
