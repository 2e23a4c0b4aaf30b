"""The teacher of Co-rewarding-II and III: a moving average of the policy, on the policy's own shards.

    teacher_k = alpha_k teacher_(k-1) + (1 - alpha_k) theta_k        k = 1 ... K training steps
    1 - alpha_k = a_end + (a_start - a_end) / 2 * (1 + cos(pi (k - 1) / K)),    a = 1 - alpha

with theta_k the weights that draw the rollouts of step k, so that the first update changes nothing. The
paper prints alpha_k = 1 - (alpha_end - alpha_start) / 2 * (1 + cos(pi k / K)) (Eq. 11), which with its
alpha_start = 0.99 and alpha_end = 0.9999 runs from 0.9901 to exactly 1: the factor is that of a = 1 - alpha,
and the end value is missing. The form above runs from alpha_start towards alpha_end, and is that of the
authors' code.

The average is of the weights that the optimizer steps on, which are float32 beside a bfloat16 model, and is
float32 itself, with a second float32 for the rest that rounding leaves: with 1 - alpha between 1e-2 and 1e-4
most updates are smaller than the last place of a bfloat16 weight, and many than that of a large float32 one.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor

from megatron_coreward.actor.checkpoint.model_state import sharded_by_parameter
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.reference import MegatronReference
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.config.learning import TeacherConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.types import Traffic

STATE_PREFIX, REST_PREFIX, REST = "teacher", "teacher_rest", "rest."


def alpha_at(config: TeacherConfig, step: int, total_steps: int) -> float:
    """The teacher keeps this share of itself in the update of `step`, counted from 1."""
    a_start, a_end = 1 - config.alpha_start, 1 - config.alpha_end
    progress = min((step - 1) / total_steps, 1.0)
    return 1 - (a_end + (a_start - a_end) / 2 * (1 + math.cos(math.pi * progress)))


def move_towards(average: torch.Tensor, rest: torch.Tensor, goal: torch.Tensor, share: float) -> None:
    """Moves average + rest by `share` of its distance to `goal`, in place; all float32, of one shape.

    `rest` is less than the last place of `average` (Neumaier's sum), so no movement is lost.
    """
    step = (goal - average).sub_(rest).mul_(share).add_(rest)
    moved = average + step
    torch.sub(step, moved - average, out=rest)
    average.copy_(moved)


class MegatronTeacher(MegatronReference):
    """roles.Teacher: a reference that follows the policy and can be loaded into the rollout engine.

    Starts as the start model, `model.checkpoint` included.
    """

    def __init__(self, config: Config, layout: Layout, policy: MegatronPolicy) -> None:
        super().__init__(config, layout, constant=False)
        self._config = config.teacher
        self._policy = policy
        # float() makes a copy of bfloat16 weights; float32 weights are the average themselves.
        self._average = {name: weight.detach().float() for name, weight in self._named_weights()}
        self._rest = {name: torch.zeros_like(average) for name, average in self._average.items()}
        self._is_copy = self.model.dtype != torch.float32
        self._exporter = WeightExporter(
            self.model, layout, config.weight_sync.bucket_mb * 2**20, config.rollout.tensor_parallel_size
        )

    @torch.no_grad()
    def update(self, step: int, total_steps: int) -> float:
        """Moves the average towards the policy, before the policy's update of `step` (from 1); returns alpha.

        Alpha is 1 in a step in which the teacher stays as it is (`teacher.every`).
        """
        assert self._weights.on_device, "the teacher is offloaded: call onload() first"
        if self._config.every == 0 or (step - 1) % self._config.every:
            return 1.0
        alpha = alpha_at(self._config, step, total_steps)
        for name, theta in self._policy.float32_weights():
            move_towards(self._average[name], self._rest[name], theta, 1 - alpha)
        self._copy_to_model()
        return alpha

    @property
    def traffic(self) -> Traffic:
        """roles.WeightSource.traffic."""
        return self._exporter.traffic

    def export_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """roles.WeightSource.export_weights."""
        return self._exporter.export(for_engine=True)

    def sharded_state(self) -> dict[str, Any]:
        """The average as Megatron's sharded tensors, shaped and cut as the model's; offloaded or not."""
        of_model = sharded_by_parameter(self.model.module.sharded_state_dict())
        tensors = {}
        for name, weight in self._named_weights():
            sharded = of_model[id(weight)]
            average = self._weights.where_it_is(self._average[name] if self._is_copy else weight).detach()
            rest = self._weights.where_it_is(self._rest[name])
            tensors[name] = make_sharded_optimizer_tensor(sharded, average, STATE_PREFIX)
            tensors[REST + name] = make_sharded_optimizer_tensor(sharded, rest, REST_PREFIX)
        return tensors

    @torch.no_grad()
    def load_state(self, loaded: dict[str, torch.Tensor]) -> None:
        """Copies a loaded state into the teacher, in place. That of 0.1 has no rest."""
        for name, average in self._average.items():
            average.copy_(loaded[name])
            self._rest[name].copy_(loaded.get(REST + name, torch.zeros_like(average)))
        self._copy_to_model()

    def _copy_to_model(self) -> None:
        if self._is_copy:
            for name, weight in self._named_weights():
                weight.copy_(self._average[name])

    def _named_weights(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.model.module.named_parameters()

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from super()._tensors()
        yield from self._rest.values()
        if self._is_copy:
            yield from self._average.values()
