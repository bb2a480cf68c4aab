#!/bin/bash
# Training of a recipe on Slurm, on all GPUs of some nodes. Scores come first: each GPU takes its share.
#     sbatch --nodes=2 --gpus-per-node=8 recipes/clusters/slurm-train.sh NAME key=value ...
# Submit it again after the time limit, or with other numbers of nodes: it goes on from the last
# checkpoint. With --dependency=afterok:JOB it waits for the labels.
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -eu

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))  # two jobs may share a node
gpus=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
for module in pseudo_label.scores distill.train; do
  # $SLURM_NODEID is each node's own, so it is written down for the shells that srun starts
  srun bash -c 'accelerate launch --config_file recipes/accelerate/ddp.yaml --num_machines "$0" \
    --machine_rank "$SLURM_NODEID" --num_processes "$1" --main_process_ip "$2" \
    --main_process_port "$3" -m "${@:4}"' "$SLURM_NNODES" "$gpus" "$head" "$port" "$module" "$@"
done
