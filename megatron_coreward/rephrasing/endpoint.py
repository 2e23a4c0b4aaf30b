"""drawing.Drawer with a model behind an OpenAI-compatible endpoint: vLLM's server, or a provider's.

Every response is on disk as soon as it has arrived, under its seed, so that none is paid for twice. The key
goes to the endpoint and nowhere else: not into files, not into messages, also where the endpoint repeats it.
"""

import asyncio
import json
import os
import re
from argparse import Namespace
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from megatron_coreward.config.schema import Config
from megatron_coreward.data.templates import turns_of
from megatron_coreward.rephrasing.attempts import Drawn
from megatron_coreward.rephrasing.drawing import Chats, Purpose, Responses
from megatron_coreward.requests import REPHRASING, request_seed
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Sampling

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

KEY_VARIABLE, RESPONSES = "OPENAI_API_KEY", "responses.jsonl"
RETRIES = 8
"""After connection errors, time-outs, rate limits and errors of the server. The client waits in between as
long as the server says, or 0.5, 1, 2, 4, 8, 8, ... seconds."""
_CONNECT_S, _SHOWN, _NAMED = 3.0, 200, 10
_OF_THE_PROMPT = (400, 413, 422)
"""Statuses with which an endpoint that has answered before refuses a prompt."""
_FAULTS = {
    "APITimeoutError": "no answer in {timeout:g} s; raise --api-timeout or lower --api-concurrency",
    "APIConnectionError": "it cannot be reached; check the address, and that the server runs",
    "AuthenticationError": "it refuses {key} (status 401)",
    "PermissionDeniedError": "it refuses {key} (status 403)",
    "NotFoundError": "{models} (status 404)",
    "RateLimitError": "its rate limit is reached ({said}); lower --api-concurrency, or wait",
}
"""Class of the client's error -> what it means; others are told in the endpoint's words."""


class EndpointDrawer:
    """Options that cannot work raise ValueError."""

    def __init__(self, options: Namespace, config: Config, world_size: int) -> None:
        _check(options, world_size)
        self.options, self.identity = options, dict[str, Any]()
        self.key, self.extra = _key(options.api_key_env), _json_object(options.api_extra or "{}")
        self.has_answered = False

    def start(self, comm: Communicator) -> None:
        """Asks for one response, to find out whether address, key, model and settings are right."""
        from openai import AsyncOpenAI, Timeout

        options, key = self.options, self.key or "none"
        timeout = Timeout(options.api_timeout, connect=_CONNECT_S)
        self.loop = asyncio.Runner()
        self.client = AsyncOpenAI(api_key=key, base_url=options.api, timeout=timeout, max_retries=RETRIES)
        sampling = Sampling(options.temperature, options.max_response_tokens, options.top_p, options.top_k)
        hasty = self.client.with_options(max_retries=1)
        self._run(self._ask(hasty, Purpose("", REPHRASING, sampling), "Say yes.", options.seed))
        self.responses = StoredResponses(options.output / RESPONSES)

    def draw(self, purpose: Purpose, chats: Chats, samples: Sequence[int], step: int = 0) -> Responses:
        seeds = {
            (row, view, sample): request_seed(self.options.seed, step, row, view, sample, purpose.stream)
            for row, view in chats
            for sample in samples
        }
        known = self.responses.known
        self._run(self._fill(purpose, {s: chats[key[:2]] for key, s in seeds.items() if s not in known}))
        return {key: known[seed] for key, seed in seeds.items()}

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        """Runs `work`. An error ends the program: connections are closed while their loop is there."""
        try:
            self.loop.run(work)
        except ValueError:
            self.loop.run(self.client.close())
            raise

    def close(self) -> None:
        self.loop.run(self.client.close())
        self.loop.close()
        self.responses.close()

    async def _fill(self, purpose: Purpose, texts: Mapping[int, str]) -> None:
        """Stores a response to each of `texts`, by seed. After an error those under way still come in."""
        gate, errors = asyncio.Semaphore(self.options.api_concurrency), list[ValueError]()

        async def store(seed: int, text: str) -> None:
            async with gate:
                if not errors:
                    try:
                        self.responses.add(seed, await self._ask(self.client, purpose, text, seed))
                    except ValueError as error:
                        errors.append(error)

        await asyncio.gather(*(store(*item) for item in texts.items()))
        if errors:
            raise errors[0]

    async def _ask(self, client: "AsyncOpenAI", purpose: Purpose, text: str, seed: int) -> Drawn:
        from openai import APIError, APIStatusError
        from openai.types.chat import ChatCompletion

        sampling = purpose.sampling
        body: dict[str, Any] = {
            "model": self.options.api_model,
            "messages": turns_of(text, purpose.system_prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            "extra_body": ({"top_k": sampling.top_k} if sampling.top_k else {}) | self.extra,
        }  # OpenAI's own API does not know top_k
        answer: object = None
        try:
            answer = await client.chat.completions.create(**body)
        except APIError as error:
            status = error.status_code if isinstance(error, APIStatusError) else 0
            if self.has_answered and status in _OF_THE_PROMPT:
                return Drawn(self._said(error), finished=False, refused=True)
            raise self._fault(await self._explained(client, error)) from None
        except json.JSONDecodeError:
            pass
        if not isinstance(answer, ChatCompletion) or not answer.choices or not answer.choices[0].message:
            raise self._fault("it answers, but not as OpenAI's API does; does it end in /v1?")
        self.has_answered = True
        reason, content = answer.choices[0].finish_reason, answer.choices[0].message.content or ""
        return Drawn(content, reason not in ("length", "content_filter"), reason == "content_filter")

    async def _explained(self, client: "AsyncOpenAI", error: "APIError") -> str:
        from openai import APIError, NotFoundError

        name, models = self.options.api_key_env, "it has nothing at this address; does it end in /v1?"
        if isinstance(error, NotFoundError):
            with suppress(APIError, json.JSONDecodeError):
                there = [model.id for model in (await client.models.list()).data][:_NAMED]
                models = f"it has no model {self.options.api_model!r}; there are {', '.join(there)}"
        key = f"the key in {name}" if self.key else f"requests without a key, and {name} is not set"
        words = {"said": self._said(error), "timeout": self.options.api_timeout, "key": key, "models": models}
        return _FAULTS.get(type(error).__name__, "it says: {said}").format(**words)

    def _said(self, error: "APIError") -> str:
        """The endpoint's words in one line, without the key."""
        body = error.body
        said = str(body["message"] if isinstance(body, dict) and "message" in body else error.message)
        return " ".join((said.replace(self.key, "[key]") if self.key else said).split())[:_SHOWN]

    def _fault(self, problem: str) -> ValueError:
        return ValueError(
            f"--api {self.options.api}: {problem}. What has been drawn is kept: the same command goes on"
        )


class StoredResponses:
    """`known`, the responses of a file by seed, and those added to both. A torn last line is cut off."""

    def __init__(self, file: Path) -> None:
        lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        self.known = {seed: Drawn(*drawn) for seed, *drawn in map(json.loads, whole)}
        self._file = file.open("ab")
        self._file.truncate(sum(map(len, whole)))

    def add(self, seed: int, drawn: Drawn) -> None:
        self._file.write(json.dumps([seed, *astuple(drawn)]).encode() + b"\n")
        self._file.flush()
        self.known[seed] = drawn

    def close(self) -> None:
        self._file.close()


def _check(options: Namespace, world_size: int) -> None:
    """No error shows what may be the key."""
    parts = urlsplit(options.api)
    foreign = [key.partition("=")[0] for key in options.overrides if not key.startswith("reward.")]
    foreign += ["--thinking"] * options.thinking
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError(
            "--api must be an address like https://HOST/v1, without a user, a password or a query; the key "
            "is read from the variable that --api-key-env names"
        )
    if not options.api_model:
        raise ValueError("--api needs --api-model, the model's name there")
    if world_size > 1:
        raise ValueError(
            f"--api is for one process, not {world_size}; --api-concurrency N asks for N at once"
        )
    if foreign:
        raise ValueError(
            f"{foreign[0]} says nothing to an endpoint; --api-extra gives fields of its requests"
        )


def _key(variable: str) -> str:
    """The key in `variable`. The usual one may be unset: a server of one's own needs no key."""
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", variable) or variable not in (*os.environ, KEY_VARIABLE):
        raise ValueError("--api-key-env must name a variable (in capitals) that is set and holds the key")
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"the key in {variable} has characters that no key has; set it anew")
    return key


def _json_object(text: str) -> dict[str, Any]:
    value = None
    with suppress(json.JSONDecodeError):
        value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"--api-extra is {text!r}, but must be a JSON object of fields for every request")
    return value
