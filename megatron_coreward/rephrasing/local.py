"""drawing.Drawer with vLLM on this machine: the replicas of the ranks share the requests."""

from argparse import Namespace
from collections.abc import Sequence

from megatron_coreward.config.model_shape import find_folder
from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import encode_prompts, read_tokenizer
from megatron_coreward.data.tables import read_json
from megatron_coreward.rephrasing.attempts import THOUGHT_START, Drawn
from megatron_coreward.rephrasing.drawing import Chats, Purpose, Responses
from megatron_coreward.rephrasing.store import digest
from megatron_coreward.requests import requests_for
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response

_LONGEST_TAG = 16
"""Tokens that the tag which begins the thoughts, and the white space after it, have at most."""


class LocalDrawer:
    """A model that is absent, has no chat template or too short a context raises ValueError."""

    def __init__(self, options: Namespace, config: Config, world_size: int) -> None:
        self.options, self.config = options, config
        if world_size % config.rollout.tensor_parallel_size:
            raise ValueError(
                f"rollout.tensor_parallel_size={config.rollout.tensor_parallel_size} must divide the number "
                f"of ranks, {world_size}"
            )
        self.folder = find_folder(options.model)
        self._check_context()
        self.tokenizer, self.stop_ids = read_tokenizer(self.folder, config.model)
        weights = [f"{file.name} {file.stat().st_size}" for file in sorted(self.folder.glob("*.*"))]
        self.identity = {"dtype": config.model.dtype, "model_files": digest("\n".join(weights))}

    def _check_context(self) -> None:
        """Prompt and response must fit the context that config.json states, where it states one."""
        settings, options = read_json(str(self.folder / "config.json"), "--model"), self.options
        context = (settings.get("text_config") or settings).get("max_position_embeddings")
        needed = options.max_prompt_tokens + options.max_response_tokens
        if context and needed > context:
            raise ValueError(
                f"--max-prompt-tokens + --max-response-tokens = {needed}, but the context of {options.model} "
                f"is {context}; lower either (coreward rephrase --help-all)"
            )

    def start(self, comm: Communicator) -> None:
        from megatron_coreward.rollout.engine import VllmEngine

        self.comm = comm
        self.engine = VllmEngine(self.config, str(self.folder), self.stop_ids, self.options.seed)

    def draw(self, purpose: Purpose, chats: Chats, samples: Sequence[int], step: int = 0) -> Responses:
        encoded = encode_prompts(
            self.tokenizer, list(chats.values()), purpose.system_prompt, self.options.thinking
        )
        prompts = [
            (*key, ids)
            for key, ids in zip(chats, encoded, strict=True)
            if len(ids) <= self.options.max_prompt_tokens
        ]
        requests = requests_for(prompts, samples, self.options.seed, purpose.stream, step)
        responses = self.engine.generate(requests, purpose.sampling)
        drawn = {(r.pair_id, r.view, r.sample): self._drawn(r) for r in responses}
        return {key: text for share in self.comm.all_gather(drawn) for key, text in share.items()}

    def _drawn(self, response: Response) -> Drawn:
        """The response, with the tag that begins its thoughts where the chat template has put it already."""
        end_of_prompt = self.tokenizer.decode(response.prompt_ids[-_LONGEST_TAG:]).rstrip()
        start = THOUGHT_START if end_of_prompt.endswith(THOUGHT_START) else ""
        return Drawn(f"{start}{response.text}", response.finish_reason == "stop")

    def close(self) -> None:
        self.engine.close()
