#!/usr/bin/env bash
# Format, then three arms from the same start: Co-Reward, majority voting on both wordings, ground truth.
#   bash examples/smollm2_135m_arithmetic/run.sh [key.sub=value ...]      the keys go to the arms
# What is there already is not done again: a stopped run goes on with the same command.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi

here=examples/smollm2_135m_arithmetic
out=runs/smollm2_arithmetic
ranks=${RANKS:-2}
read -ra sft_keys <<<"${SFT_KEYS:-}"

if [ ! -d runs/SmolLM2-135M-Instruct ]; then
  python tools/fetch_smollm2.py --output runs/SmolLM2-135M-Instruct
fi
if [ ! -f $out/data/held_out.jsonl ]; then
  python $here/make_data.py --output $out/data
fi
if [ ! -d $out/sft/hf ]; then
  echo "== supervised training: the format"
  rm -rf $out/sft
  coreward sft $here/sft.yaml --ranks "$ranks" "${sft_keys[@]}"
fi
for method in co_reward majority_voting ground_truth; do
  if [ ! -d $out/$method/hf ]; then
    echo "== $method"
    coreward train $here/arm.yaml --ranks "$ranks" "$@" \
      reward.method=$method run.output_dir=$out/$method run.auto_resume=true
  fi
  coreward summarize $out/$method
done
