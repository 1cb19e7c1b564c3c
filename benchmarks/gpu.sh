#!/usr/bin/env bash
# Every figure that needs a GPU, within 6 minutes: bash benchmarks/gpu.sh [--device cpu --tiny]
# Results: ${OUT:-benchmarks/out}/results.md, which grows while rows run; a row that fails or takes too long is named.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
export PYTORCH_NVML_BASED_CUDA_CHECK=1  # imports that ask for a GPU must not initialise CUDA: forks could not use it
exec "$python" -m benchmarks.gpu --out "${OUT:-benchmarks/out}" "$@"
