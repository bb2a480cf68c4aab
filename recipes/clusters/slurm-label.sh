#!/bin/bash
# Labels, then scores, of a recipe on Slurm: an array of tasks, one GPU each.
#     sbatch --array=0-31 recipes/clusters/slurm-label.sh NAME key=value ...
# Run it where the project and the recipe's folders are, on a file system that all nodes share. Tasks do
# not wait for each other: a task that is late, or comes again, takes what nobody has done. Run it a
# second time if tasks were killed; what is there is not done again.
#SBATCH --job-name=label
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
set -eu

export RANK=$SLURM_ARRAY_TASK_ID WORLD_SIZE=$SLURM_ARRAY_TASK_COUNT
srun python -m pseudo_label "$@"
