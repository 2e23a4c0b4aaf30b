"""Label-free reinforcement learning for reasoning (Co-Reward) with Megatron-Core actors and vLLM rollout."""

__version__ = "0.1.0"
