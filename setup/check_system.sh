#!/usr/bin/env bash
# Looks for what the system must bring before anything is downloaded.
#   setup/check_system.sh            prints the Python to use; names what is missing, with its Debian package, and exits 4
#   setup/check_system.sh --packages prints the Debian packages that are missing, one a line, and exits 0
#   setup/check_system.sh --test-packages prints those that only tests want, which are skipped without them, likewise
#   setup/check_system.sh --jpeg     prints "there" or "missing", of what the decoder of JPEG regions is compiled with
# GPU=1 asks for a CUDA compiler as well: Horovod is then built with NCCL.
# PYTHON names the interpreter to use; without it the first of python3, python3.13, 3.12, 3.11 that is new enough is taken.
set -euo pipefail

missing=()
packages=()
for_tests=(libjpeg-dev chromium fuse3 libfuse3-dev pkg-config glusterfs-server glusterfs-client btrfs-progs squashfs-tools openssh-server openssh-client sshfs iproute2)

lacks() { missing+=("$1"); packages+=("$2"); }

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }  # at_least 3.25.1 3.21

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if is_new_enough "$candidate"; then "$candidate" -c 'import sys; print(sys.executable)'; return; fi
    done
}

# Debian names a package after the version only where it is not the default Python.
python_package() { case "$1" in */python3 | python3) echo "python3-$2" ;; *) echo "$(basename "$1")-$2" ;; esac; }

check_python() {
    if [ -z "$python" ]; then
        lacks "Python 3.11 or newer${PYTHON:+ (PYTHON=$PYTHON is not)}" python3
        lacks "Python's venv module" python3-venv
        lacks "Python's headers (Python.h)" python3-dev
        return
    fi
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || lacks "the venv module of $python" "$(python_package "$python" venv)"
    "$python" -c 'import pathlib, sys, sysconfig; sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())' \
        || lacks "the headers (Python.h) of $python" "$(python_package "$python" dev)"
}

check_cmake() {
    local version
    version=$(cmake --version 2>/dev/null | sed -n '1s/.*version *//p' || true)
    [ -n "$version" ] && at_least "$version" 3.21 || lacks "cmake 3.21 or newer${version:+ (this one is $version)}" cmake
}

check_nvcc() {
    [ -x "${HOROVOD_CUDA_HOME:-${CUDA_HOME:-/usr/local/cuda}}/bin/nvcc" ] || command -v nvcc >/dev/null \
        || lacks "a CUDA compiler (nvcc, for GPU=1; CUDA_HOME=FOLDER names another toolkit)" nvidia-cuda-toolkit
}

has_jpeg_headers() { echo '#include <stdio.h>
#include <jpeglib.h>
int partial = LIBJPEG_TURBO_VERSION_NUMBER;' | cc -fsyntax-only -x c - 2>/dev/null; }

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

if [ "${1:-}" = --test-packages ]; then
    for package in "${for_tests[@]}"; do is_installed "$package" || echo "$package"; done
    exit 0
fi

if [ "${1:-}" = --jpeg ]; then
    if has_jpeg_headers; then echo there; else echo missing; fi
    exit 0
fi

python=$(find_python)
check_python
command -v g++ >/dev/null || lacks "a C++ compiler (g++)" g++
check_cmake
command -v make >/dev/null || lacks "make" make
[ "${GPU:-0}" != 1 ] || check_nvcc

if [ "${1:-}" = --packages ]; then
    [ ${#packages[@]} -eq 0 ] || printf '%s\n' "${packages[@]}"
    exit 0
fi
if [ ${#missing[@]} -gt 0 ]; then
    echo "iobench's set-up needs from the system, before anything is downloaded:" >&2
    for i in "${!missing[@]}"; do echo "  ${missing[$i]}: Debian package ${packages[$i]}" >&2; done
    echo "On Debian or Ubuntu:  sudo apt-get install ${packages[*]}" >&2
    exit 4
fi
echo "$python"
