# shellcheck shell=bash
# Sourced by the scripts that run under SLURM: environment of the ranks, and `launch`, the command that starts
# one process per node in it.
#   CONTAINER=image.sif                 apptainer
#   CONTAINER=image.sqsh or a registry  enroot, through SLURM's pyxis plugin
#   VENV=.venv                          without a container: the virtual environment
# The project's folder and the data must lie on a file system that all nodes share.

# What NCCL has to complain about, without a line per connection.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# After a timeout every rank writes its last 2,000 collectives: who was missing in which one.
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000}
export TORCH_NCCL_DUMP_ON_TIMEOUT=${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}
# Depend on the cluster; set them before sbatch where the choice that NCCL and gloo make by themselves is wrong:
#   NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME   interface of the first contact, and of all host data (gloo), e.g. ib0
#   NCCL_IB_HCA                              InfiniBand adapters, e.g. mlx5; leave out those for storage

# A step has one task per node, and it takes the CPUs and the GPUs of the job: srun would give it one CPU.
launch=(srun --nodes "$SLURM_NNODES" --ntasks "$SLURM_NNODES" --ntasks-per-node 1
  --cpus-per-task "$SLURM_CPUS_ON_NODE" --cpu-bind none --kill-on-bad-exit=1)
case ${CONTAINER:-} in
  "")
    if [[ ! -f ${VENV:=.venv}/bin/activate ]]; then
      echo "error: there is no virtual environment $VENV; set VENV=FOLDER or CONTAINER=IMAGE" >&2
      exit 2
    fi
    # shellcheck source=/dev/null
    source "$VENV/bin/activate"
    ;;
  *.sif) launch+=(apptainer exec --nv --bind "$PWD" --pwd "$PWD" "$CONTAINER") ;;
  *) launch+=(--container-image "$CONTAINER" --container-mounts "$PWD:$PWD" --container-workdir "$PWD") ;;
esac
