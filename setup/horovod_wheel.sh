#!/usr/bin/env bash
# Builds Horovod's wheel for the torch of a virtual environment and prints where it lies.
#   setup/horovod_wheel.sh VENV LOG
# Horovod is published as source only and is compiled against one torch, so the wheel is kept in the user's cache under all
# that it depends on: horovod, torch, Python, machine, C library, and this recipe with the HOROVOD_* variables around it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
venv=$(cd "$1" && pwd)
log=$2
version=$(sed -n 's/^horovod==//p' "$here/../constraints.txt")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/iobench/wheels

read -r torch_tag system_tag < <("$venv/bin/python" - <<'PY'
import platform, sys, torch
libc = "".join(platform.libc_ver())
print(f"torch-{torch.__version__}", f"{sys.implementation.cache_tag}-{platform.machine()}-{libc}")
PY
)
say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&2; }

kept_wheel() { find "$folder" -maxdepth 1 -name 'horovod-*.whl' 2>/dev/null | head -n 1; }

# One compiler takes up to 1.5 GB on torch's headers: no more of them than the memory holds.
num_jobs() {
    local cores fitting
    cores=$(nproc)
    fitting=$(awk '/^MemAvailable/ {print int($2 / 1.5e6)}' /proc/meminfo)
    echo $((fitting < 1 ? 1 : fitting < cores ? fitting : cores))
}

build_into() {
    export PATH="$venv/bin:$PATH" CMAKE_TOOLCHAIN_FILE="$here/horovod_toolchain.cmake"
    export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1
    export HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
    unset MAKELEVEL MFLAGS
    export MAKEFLAGS
    MAKEFLAGS=-j$(num_jobs)
    # CMake 4 refuses the old minimum version in Horovod's third-party code; gcc 13 no longer brings <cstdint> in by the way.
    case $(cmake --version) in "cmake version "[1-3].*) ;; *) export CMAKE_POLICY_VERSION_MINIMUM=3.5 ;; esac
    if [ "$(g++ -dumpversion | cut -d. -f1)" -ge 13 ]; then export CXXFLAGS="-include cstdint ${CXXFLAGS:-}"; fi
    "$venv/bin/python" -m pip wheel --no-build-isolation --no-cache-dir --no-deps --wheel-dir "$1" "horovod==$version"
}

fail() {
    printf 'Horovod %s could not be built; the whole log is %s and ends with:\n' "$version" "$log" >&2
    tail -n 15 "$log" >&2
    exit 4
}

recipe=$({ declare -f build_into; cat "$here"/*.cmake; env | sed -n '/^HOROVOD_/p' | sort; } | sha256sum | cut -c1-8)
folder="$cache/horovod-$version-$torch_tag-$system_tag-$recipe"
mkdir -p "$folder"
exec 8<"$folder"
if command -v flock >/dev/null; then flock 8; fi
wheel=$(kept_wheel)
if [ -z "$wheel" ]; then
    say "building Horovod $version against $torch_tag, about 4 minutes on two cores (log: $log) ..."
    work=$(mktemp -d "$cache/.building-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    build_into "$work" >"$log" 2>&1 </dev/null 8<&- || fail
    mv "$work"/horovod-*.whl "$folder/"
    wheel=$(kept_wheel)
else
    say "taking the Horovod $version built before: $wheel"
fi
echo "$wheel"
