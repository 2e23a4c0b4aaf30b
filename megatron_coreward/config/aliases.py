"""What keys of other trainers are called here: of transformers' TrainingArguments, TRL, verl and OpenRLHF.

An unknown key is looked up with and without what stands before its dots, so that learning_rate and
optimizer.learning_rate lead to one row. Names that end in a key of ours (actor_rollout_ref.actor.optim.lr)
need none. keys.py puts the answer into its error.
"""

_KEYS: dict[tuple[str, str], str] = {
    ("optimizer.lr", "the learning rate"): "learning_rate actor_learning_rate",
    ("optimizer.schedule", "the shape of the learning rate"): (
        "lr_scheduler_type lr_scheduler warmup_style lr_decay_style scheduler"
    ),
    ("optimizer.warmup_ratio", "the share of steps that warm up"): (
        "warmup_steps lr_warmup_steps lr_warmup_ratio lr_warmup_steps_ratio"
    ),
    ("optimizer.min_lr", "the learning rate at the end"): "min_learning_rate min_lr_ratio",
    ("optimizer.weight_decay", "the weight decay"): "l2",
    ("optimizer.beta1", "Adam's beta 1 (beta2: the other)"): "adam_beta1 adam_betas betas",
    ("optimizer.beta2", "Adam's beta 2"): "adam_beta2",
    ("optimizer.eps", "Adam's epsilon"): "adam_epsilon adam_eps",
    ("optimizer.clip_grad", "the limit of the gradient's norm"): (
        "max_grad_norm grad_clip max_norm gradient_clipping"
    ),
    ("optimizer.distributed", "what divides Adam's state over ranks"): (
        "zero_stage use_distributed_optimizer deepspeed fsdp fsdp_config"
    ),
    ("algorithm.kl_coef", "the weight of the KL penalty"): (
        "beta kl kl_coeff kl_loss_coef kl_loss_coeff init_kl_coef"
    ),
    ("algorithm.kl_estimator", "the estimator of the KL penalty"): "kl_loss_type kl_penalty kl_type",
    ("algorithm.clip", "the clip range"): (
        "epsilon eps_clip clip_ratio clip_range cliprange clip_eps clip_epsilon clip_ratio_low epsilon_low"
        " clip_low"
    ),
    ("algorithm.clip_high", "the upper clip range"): "epsilon_high clip_ratio_high eps_clip_low_high",
    ("algorithm.dual_clip", "the bound of the dual clip"): "clip_ratio_c delta",
    ("algorithm.tis_cap", "the cap of truncated importance sampling"): (
        "vllm_importance_sampling_cap vllm_importance_sampling_correction enable_vllm_is_correction"
        " vllm_is_truncated_threshold tis_imp_ratio_cap"
    ),
    ("algorithm.advantage", "how advantages are made (group-norm is GRPO's)"): (
        "adv_estimator advantage_estimator scale_rewards norm_adv_by_std_in_grpo no_advantage_std_norm"
        " normalize_reward"
    ),
    ("algorithm.aggregation", "how the loss is averaged"): "loss_agg_mode loss_type loss_aggregation",
    ("algorithm.mask_truncated", "what leaves truncated responses out of the loss"): (
        "mask_truncated_completions overlong_filter"
    ),
    ("algorithm.denominator", "whether groups without signal count (active: they do not)"): (
        "filter_groups filter_groups.enable dynamic_filtering dynamic_sampling"
    ),
    ("algorithm.updates_per_batch", "the number of optimizer steps that a rollout batch is divided into"): (
        "num_iterations ppo_epochs max_epochs ppo_mini_batch_size mini_batch_size num_mini_batches"
        " num_ppo_epochs steps_per_generation"
    ),
    ("rollout.samples", "the number of responses per question"): (
        "n num_generations n_samples_per_prompt num_samples num_return_sequences group_size"
        " num_samples_per_prompt rollout_n"
    ),
    ("rollout.max_response_tokens", "the longest response, in tokens"): (
        "max_completion_length max_response_length generate_max_len max_new_tokens max_tokens response_length"
        " max_gen_len"
    ),
    ("rollout.gpu_memory_utilization", "vLLM's share of the GPU"): "vllm_gpu_memory_utilization",
    ("rollout.tensor_parallel_size", "vLLM's tensor parallelism"): (
        "vllm_tensor_parallel_size rollout.tensor_model_parallel_size rollout.tp"
    ),
    ("parallel.tensor", "the actor's tensor parallelism"): (
        "tensor_model_parallel_size parallel.tensor_parallel_size ds_tensor_parallel_size tp"
    ),
    ("parallel.pipeline", "the number of pipeline stages"): (
        "pipeline_model_parallel_size pipeline_parallel_size pp"
    ),
    ("parallel.expert", "the number of ranks that share the experts"): (
        "expert_model_parallel_size expert_parallel_size ep"
    ),
    ("parallel.sequence", "sequence parallelism"): "sequence_parallel",
    ("data.batch_pairs", "the number of questions per rollout batch, over all ranks"): (
        "train_batch_size rollout_batch_size generation_batch_size batch_size global_batch_size"
    ),
    ("data.max_prompt_tokens", "the longest prompt, in tokens"): (
        "max_prompt_length prompt_max_len prompt_length"
    ),
    ("data.original", "the file of questions"): (
        "train_files train_file dataset_name dataset prompt_data train_dataset"
    ),
    ("data.limit", "the number of questions that are used"): (
        "max_samples train_max_samples max_train_samples"
    ),
    ("data.shuffle", "what shuffles the questions"): "shuffle_dataset",
    ("evaluation.file", "the file of questions to evaluate on"): (
        "val_files val_file eval_dataset eval_file"
    ),
    ("evaluation.every", "the number of steps between evaluations"): "eval_steps test_freq",
    ("evaluation.samples", "the number of sampled responses per question of the evaluation"): (
        "val_kwargs.n num_generations_eval eval_n_samples_per_prompt"
    ),
    (
        "evaluation.temperature",
        "the evaluation's temperature",
    ): "val_kwargs.temperature eval_temperature",
    ("evaluation.limit", "the number of questions that are evaluated"): "val_max_samples max_eval_samples",
    ("checkpoint.every", "the number of steps between checkpoints"): "save_steps save_freq",
    ("checkpoint.keep_last", "the number of checkpoints that are kept"): (
        "save_total_limit max_ckpt_num max_actor_ckpt_to_keep"
    ),
    ("checkpoint.keep_best", "the number of best checkpoints that are kept"): "load_best_model_at_end",
    ("run.output_dir", "the run's folder"): ("default_local_dir save_path ckpt_path logging_dir"),
    ("run.epochs", "the number of passes over the questions"): (
        "num_train_epochs total_epochs num_episodes num_epochs"
    ),
    ("run.steps", "the number of rollout batches"): ("max_steps total_training_steps total_steps"),
    ("run.seed", "the seed of everything"): "data_seed",
    ("run.resume", "what goes on from the newest checkpoint"): (
        "resume_from_checkpoint resume_mode resume_from_path load_checkpoint"
    ),
    ("model.path", "the start model"): ("model_name_or_path pretrain model_name"),
    ("model.dtype", "the compute type"): "bf16 fp16 torch_dtype mixed_precision",
    ("model.chat_template", "the chat template, where the model has none"): (
        "chat_template_path apply_chat_template input_template custom_chat_template"
    ),
    ("memory.recompute", "what saves memory by computing activations again"): (
        "gradient_checkpointing enable_gradient_checkpointing recompute_granularity"
    ),
    ("memory.offload_optimizer", "what moves Adam's state to main memory"): (
        "optimizer_offload adam_offload param_offload grad_offload cpu_offload"
    ),
    ("memory.offload_reference", "what moves the reference to main memory"): "ref_reward_offload",
    ("memory.rollout_sleep", "what frees vLLM's memory during updates"): (
        "vllm_enable_sleep_mode vllm_enable_sleep free_cache_engine enable_sleep_mode"
    ),
    ("reward.method", "the source of rewards"): (
        "reward_type reward.type reward_func reward_funcs custom_reward_function reward_function"
        " reward_model remote_rm_url reward_pretrain"
    ),
    ("teacher.alpha_start", "the start of the teacher's average (alpha_end: its end)"): (
        "ema_beta ref_model_mixup_alpha"
    ),
    ("teacher.every", "the number of steps between the teacher's updates"): "ref_model_sync_steps",
    ("logging.wandb_project", "W&B's project"): "project_name project",
    ("logging.wandb_name", "the run's name in W&B"): "run_name experiment_name wandb_run_name",
    ("logging.wandb_entity", "W&B's entity"): "wandb_org entity",
    ("logging.wandb", "what logs to W&B"): "report_to use_wandb logger",
    ("logging.tensorboard", "what writes TensorBoard events"): "use_tensorboard",
    ("logging.rollouts", "what keeps every response"): "log_completions rollout_data_dir",
}
"""Our key and what it is -> names that mean the same elsewhere."""

_WORDS: dict[str, str] = {
    "the micro-batch is in tokens here: optimizer.micro_batch_tokens; data.batch_pairs is the whole batch": (
        "per_device_train_batch_size gradient_accumulation_steps micro_train_batch_size micro_batch_size"
        " micro_rollout_batch_size ppo_micro_batch_size ppo_micro_batch_size_per_gpu per_device_batch_size"
        " log_prob_micro_batch_size log_prob_micro_batch_size_per_gpu ppo_max_token_len_per_gpu"
        " train_max_tokens_per_gpu log_prob_max_token_len_per_gpu"
    ),
    "the ranks are those that are started (coreward train --ranks, or torchrun), and no key": (
        "n_gpus_per_node nnodes num_gpus n_gpus num_processes world_size actor_num_nodes num_nodes"
        " actor_num_gpus_per_node vllm_num_engines nproc_per_node"
    ),
    "vLLM always draws the responses here, in the ranks' own processes; its keys are those of rollout": (
        "use_vllm vllm_mode rollout.name colocate_all_models vllm_server_host vllm_server_base_url"
        " vllm_sync_backend"
    ),
    "sequences are always packed here, by optimizer.micro_batch_tokens": (
        "packing packing_samples use_remove_padding use_dynamic_bsz use_dynamic_batch padding_free"
    ),
    "responses are always sampled from all tokens here: there is only rollout.temperature": (
        "top_p top_k min_p repetition_penalty do_sample"
    ),
    "too long prompts are dropped here (data.max_prompt_tokens), never cut": (
        "truncation filter_overlong_prompts"
    ),
    "vLLM's context is data.max_prompt_tokens + rollout.max_response_tokens here": (
        "max_model_len vllm_max_model_length max_length max_seq_length max_len max_seq_len"
    ),
    "the KL penalty is always a part of the loss here: algorithm.kl_coef is its weight, 0 for none": (
        "use_kl_loss use_kl_in_reward kl_ctrl"
    ),
    "there is no value model here: advantages are relative to the question's group (algorithm.advantage)": (
        "critic gamma lam lambd critic_warmup critic_pretrain critic_learning_rate value_clip vf_coef"
    ),
    "the loss has no entropy term here (reward.method=entropy is a reward)": (
        "entropy_coeff entropy_loss_coef"
    ),
    "all weights are trained here: there are no adapters": (
        "use_peft use_lora lora_rank lora_alpha lora_r lora_dropout lora_target_modules load_in_4bit"
    ),
    "the optimizer is always AdamW here; its keys are those of optimizer": "optim optimizer_type",
    "every step is logged here": "logging_steps",
    "evaluations before training and after it are always made where there is evaluation.file": (
        "val_before_train eval_on_start do_eval evaluation_strategy eval_strategy"
    ),
    "columns are described in docs/data.md": (
        "input_key label_key prompt_key dataset_text_field reward_fn_key"
    ),
}
"""What to know where no key corresponds -> the names."""

_WHOLE = ("critic", "reward_model", "custom_reward_function", "deepspeed", "fsdp_config", "kl_ctrl")
"""Sections elsewhere of which every key gets the same answer."""


def _rows() -> dict[str, str]:
    keys = {f"{key} is {what} here": names for (key, what), names in _KEYS.items()}
    return {name: sentence for sentence, names in (keys | _WORDS).items() for name in names.split()}


ALIASES = _rows()
"""Name elsewhere -> a sentence that names our key, or says why there is none."""


def find_alias(name: str) -> str | None:
    """The sentence for a key's name, whatever stands before it; None if no row has it.

    The longest ending decides: val_kwargs.n before n.
    """
    parts = name.lstrip("-").replace("-", "_").split(".")
    endings = [".".join(parts[i:]) for i in range(len(parts))]
    names = [*endings, *(part for part in parts if part in _WHOLE)]
    return next((ALIASES[known] for known in names if known in ALIASES), None)
