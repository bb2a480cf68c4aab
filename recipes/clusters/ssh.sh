#!/bin/bash
# A whole recipe on machines that answer to ssh and share the folder that this is started in.
#     HOSTS="gpu1 gpu2" GPUS=8 recipes/clusters/ssh.sh NAME key=value ...
# Machines that do not share a folder cannot work on one recipe: mount one (NFS, sshfs).
# Ctrl-C ends all of them; the same command goes on.
set -eu

hosts=($HOSTS)
here=$PWD
pids=()
trap 'kill "${pids[@]}" 2> /dev/null || true' EXIT  # ssh -tt: what it had started ends, too

for module in pseudo_label pseudo_label.scores distill.train; do
  pids=()
  for number in "${!hosts[@]}"; do
    launch=(accelerate launch --config_file recipes/accelerate/ddp.yaml
      --num_machines "${#hosts[@]}" --machine_rank "$number"
      --num_processes "$((${#hosts[@]} * GPUS))" --main_process_ip "${hosts[0]}"
      --main_process_port 29500 -m "$module" "$@")
    ssh -tt "${hosts[$number]}" "cd $(printf %q "$here") && $(printf '%q ' "${launch[@]}")" < /dev/null &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait "$pid"
  done
done
