"""The imports that every rank of run_ranks needs, done once by the server from which ranks are forked."""

import megatron.core.distributed
import megatron.core.models.gpt
import megatron.core.optimizer
import megatron.core.pipeline_parallel
import torch
import transformers
from megatron.core import dist_checkpointing

torch.set_num_threads(1)
PRELOADED = (torch, transformers, megatron.core.optimizer, dist_checkpointing)
