#!/usr/bin/env bash
# Makes .venv or brings it up to date; does nothing where it already is.
#   setup/environment.sh run     what `iobench` needs, Horovod included
#   setup/environment.sh test    and DALI, kvikio and the development tools
# GPU=1: Horovod is built with NCCL, and the packages that use a GPU are installed as well.  .venv remembers it; GPU=0
# takes it back.
# A stamp inside .venv holds what the environment was made from: the pins, these scripts, the Python and this folder.
set -euo pipefail

cd "$(dirname "$0")/.."
level=$1
logs=build/setup
build_tools=(setuptools wheel packaging cloudpickle psutil pyyaml cffi)
# kvikio's own requirements are 1.9 GB of CUDA; its CPU paths need only these.
kvikio=(kvikio-cu13 libkvikio-cu13 rapids-logger cuda-pathfinder nvidia-cufile)
gpu_packages=(nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-nvjpeg nvidia-ml-py)
GPU=${GPU:-$(cat .venv/gpu 2>/dev/null || echo 0)}
export GPU

trap 'exit 130' INT

say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&2; }

stamp_of() { printf '%s/.venv/stamp-%s' "$PWD" "$1"; }

# What .venv should have been made from, seen from .venv itself: empty where it is missing or broken.
wanted() {
    local version
    version=$(.venv/bin/python -c 'import sys; print(sys.version)' 2>/dev/null) || return 0
    {
        echo "$PWD" "${PYTHON:-}" "$version" "GPU=$GPU" "$(setup/check_system.sh --jpeg)"
        cat pyproject.toml constraints.txt setup/* loaders/images/*.c
    } | sha256sum
}

is_current() {
    local want
    want=$(wanted)
    [ -n "$want" ] && [ "$(cat "$(stamp_of "$1")" 2>/dev/null)" = "$want" ]
}

# logged NAME COMMAND...: runs quietly; shows the end of the log only where the command fails.
logged() {
    local log=$logs/$1.log
    shift
    if ! "$@" >"$log" 2>&1 </dev/null 9<&-; then
        printf 'failed: %s\nthe whole log is %s and ends with:\n' "$*" "$log" >&2
        tail -n 15 "$log" >&2
        exit 4
    fi
}

install() { logged "$1" .venv/bin/python -m pip install --constraint constraints.txt "${@:2}"; }

make_venv() {
    local python identity
    python=$(setup/check_system.sh)
    identity="$PWD $("$python" -c 'import sys; print(sys.base_prefix, sys.version)')"
    if .venv/bin/python -c '' 2>/dev/null && [ "$(cat .venv/made-from 2>/dev/null)" = "$identity" ]; then return; fi
    say "making .venv with $python"
    logged venv "$python" -m venv --clear .venv
    echo "$identity" >.venv/made-from
}

# What Horovod's build asks for NCCL: a folder with nccl.h and libnccl.so.  torch's CUDA build brings the library under its
# full name only, and the CUDA toolkit is the system's.
name_nccl() {
    local nccl home
    home=${HOROVOD_CUDA_HOME:-${CUDA_HOME:-/usr/local/cuda}}
    [ -x "$home/bin/nvcc" ] || home=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$home HOROVOD_NCCL_LINK=SHARED
    export HOROVOD_BUILD_CUDA_CC_LIST=${HOROVOD_BUILD_CUDA_CC_LIST:-80,86,89,90}  # A100 to H200; its own list is all that nvcc knows
    if [ -z "${HOROVOD_NCCL_HOME:-}" ]; then
        nccl=$(.venv/bin/python -c 'import nvidia.nccl as nccl; print(list(nccl.__path__)[0])' 2>/dev/null) || {
            echo "GPU=1: there is no NCCL beside torch (is it a CUDA build?); install one and set HOROVOD_NCCL_HOME" >&2
            exit 4
        }
        mkdir -p .venv/nccl/lib
        ln -sfn "$nccl/include" .venv/nccl/include
        ln -sfn "$nccl/lib/libnccl.so.2" .venv/nccl/lib/libnccl.so
        export HOROVOD_NCCL_HOME=$PWD/.venv/nccl HOROVOD_NCCL_INCLUDE=$PWD/.venv/nccl/include
        export HOROVOD_NCCL_LIB=$PWD/.venv/nccl/lib
    fi
}

# Reinstalls only another wheel: somebody may be running ranks from this .venv.
install_horovod() {
    local wheel installed built=gloo_built
    if [ "$GPU" = 1 ]; then
        built=nccl_built
        name_nccl
    fi
    wheel=$(SECONDS=$SECONDS setup/horovod_wheel.sh .venv "$logs/horovod.log")
    installed=$(stat -c '%n %s %Y' "$wheel")
    [ "$(cat .venv/horovod-wheel 2>/dev/null)" = "$installed" ] \
        || logged horovod-install .venv/bin/python -m pip install --no-deps --force-reinstall "$wheel"
    if ! .venv/bin/python -c 'import horovod.torch as hvd; assert hvd.'$built'()' >"$logs/horovod-import.log" 2>&1; then
        echo "Horovod does not load (log: $logs/horovod-import.log); delete $wheel and run make again to build it anew" >&2
        exit 4
    fi
    echo "$installed" >.venv/horovod-wheel
}

set_up_run() {
    make_venv
    say "installing torch and what iobench stands on"
    install tools "${build_tools[@]}"
    [ "$(setup/check_system.sh --jpeg)" = there ] \
        || say "without libjpeg-turbo's headers (Debian package libjpeg-dev) JPEGs are decoded whole, not by regions"
    install packages --no-build-isolation --editable .
    if [ "$GPU" = 1 ]; then
        say "installing what uses a GPU: DALI, nvImageCodec, NVML, kvikio"
        install gpu-packages "${gpu_packages[@]}"
        install kvikio --no-deps "${kvikio[@]}"
    fi
    install_horovod
    echo "$GPU" >.venv/gpu
    wanted >"$(stamp_of run)"
}

set_up_test() {
    say "installing DALI, kvikio and the development tools"
    install test-packages --no-build-isolation --editable '.[dev]' nvidia-dali-cuda130
    install kvikio --no-deps "${kvikio[@]}"
    wanted >"$(stamp_of test)"
}

if is_current "$level"; then exit 0; fi
mkdir -p "$logs"
exec 9<setup
if command -v flock >/dev/null; then
    flock --nonblock 9 || { say "waiting for another set-up of this folder to end"; flock 9; }
fi
is_current run || set_up_run
if [ "$level" = test ] && ! is_current test; then set_up_test; fi
say "the environment .venv is ready"
