"""Random rewards, the control: a fair coin per response (Shao et al., "Spurious Rewards", arXiv 2506.10947).

What a run gains with them it gains for other reasons than its reward.
"""

from hashlib import blake2b

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_signal
from megatron_coreward.types import Response, View


def signal(response: Response, config: Config) -> float:
    """0 or 1. A hash of the run's seed and the response's place in the run, so that no rank matters."""
    place = f"random reward/{config.run.seed}/{response.weights_version}/{'/'.join(map(str, response.key))}"
    return float(blake2b(place.encode(), digest_size=1).digest()[0] & 1)


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Looks at no answer."""
    return {view: by_signal(group) for view, group in groups.items()}
