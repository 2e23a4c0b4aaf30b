#!/usr/bin/env bash
# Format, then three arms from the same start: Co-Reward, majority voting on both wordings, ground truth.
#   bash examples/smollm2_135m_arithmetic/run.sh [key.sub=value ...]      the keys go to the arms
# What is there already is not done again: a stopped arm goes on with the same command.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi

here=examples/smollm2_135m_arithmetic
out=runs/smollm2_arithmetic
ranks=${RANKS:-2}

if [ ! -d runs/SmolLM2-135M-Instruct ]; then
  python tools/fetch_smollm2.py --output runs/SmolLM2-135M-Instruct
fi
if [ ! -f $out/data/held_out.jsonl ]; then
  python $here/make_data.py --output $out/data
fi
if [ ! -d $out/sft/hf ]; then
  echo "== supervised training: the format"
  rm -rf $out/sft  # of a run that was stopped, which cannot go on
  coreward sft $here/sft.yaml --ranks "$ranks"
fi
for method in co_reward majority_voting ground_truth; do
  votes=reward.min_agreement=0.75 # a label takes six votes of eight
  if [ $method = ground_truth ]; then votes=; fi
  if [ ! -d $out/$method/hf ]; then
    echo "== $method"
    coreward train $here/arm.yaml --ranks "$ranks" $votes "$@" \
      reward.method=$method run.output_dir=$out/$method run.auto_resume=true
  fi
  coreward summarize $out/$method --by subject
done
echo "== texts to read: the model as it comes, as it was taught, and after each arm"
for model in runs/SmolLM2-135M-Instruct $out/{sft,co_reward,majority_voting,ground_truth}/hf; do
  echo "-- $model"
  coreward ask --model $model --samples 4 --full rollout.memory_gb=1 rollout.max_response_tokens=40 \
    data.max_prompt_tokens=128 evaluation.temperature=1 \
    "Ann has 82 pens and gets 46 more. How many pens does Ann have now?" \
    "Ben gets forty apples. Before that Ben had twenty-eight apples and seventy-eight coins. How many apples \
does Ben have now?" \
    "There are sixty-three pens in one box. Ann puts ninety-three coins in the box. Before that there were \
thirty-four coins in it. How many coins are there now?"
done | tee $out/texts.txt
grep -h SHA-256 $out/sft/train.log  # of the start: an arm is compared with its own alone
