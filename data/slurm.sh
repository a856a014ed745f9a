#!/bin/bash
# A run as an array of Slurm jobs, one GPU each, on one store: a template to copy and change.
#
#     sbatch --array=0-7 data/slurm.sh --store /shared/runs/first --model llava-hf/llava-1.5-7b-hf \
#         --dtype float16 --methods qvid fastv --keeps 192 128 64      # or --shares 33.3 22.2 11.1
#
# Submit from the checkout. Every job takes free cells from the store until none is left; a job that
# is killed or runs out of time loses nothing, and the same line once more goes on. The store must
# lie where all nodes see it, on a file system with locks. The last job writes the table.
#SBATCH --job-name=qvid
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=48G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%A_%a.out
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" # nodes often have no network: fetch the weights before
exec "${PYTHON:-.venv/bin/python}" -m qvid_utils.workbook.cli.run --workers 1 --no-wait \
    --sharers "${SLURM_ARRAY_TASK_COUNT:-1}" "$@"
