"""Names of the files and folders in a run folder.

OUTPUT_DIR/config.yaml         the resolved configuration
           train.log           the messages
           metrics.jsonl       one line of figures per step and per evaluation
           evaluations/        step_*.json: measures with intervals, and the outcome of every question
           rollouts/           every response of every step, as Parquet
           nonfinite/          those of a step whose loss or gradient was NaN or infinite
           profile/            traces of torch's profiler (run.profile_steps)
           tensorboard/, wandb/
           checkpoints/        step_* (actor/saver.py)
           hf/                 the final model for transformers and vLLM
"""

CONFIG_FILE = "config.yaml"
LOG_FILE = "train.log"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS = "evaluations"
ROLLOUTS = "rollouts"
NONFINITE = "nonfinite"
CHECKPOINTS = "checkpoints"
HF_EXPORT = "hf"
PROFILE = "profile"
STATE_FILE = "state.json"
"""Of a checkpoint."""

RUN_MARKS = (METRICS_FILE, CONFIG_FILE, CHECKPOINTS)
"""A folder that holds any of these holds a run."""
