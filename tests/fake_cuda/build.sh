#!/usr/bin/env bash
# build.sh PYTHON FOLDER: pycuda for this Python in FOLDER/site, and a libcuda.so.1 for it to run on in FOLDER/lib.
# Wants g++, the CUDA toolkit (CUDA_ROOT, or /usr/local/cuda) and a package index. pycuda is built once for each FOLDER.
set -euo pipefail
python=$1
folder=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cuda=${CUDA_ROOT:-/usr/local/cuda}
version=2026.1
mkdir -p "$folder/lib"
cd "$folder"

flags=(-O2 -fPIC -shared -I"$cuda/include" -Wl,-soname,libcuda.so.1)
gcc -c -O2 -fPIC -I"$cuda/include" "$here/libcuda.c" -o libcuda.o
g++ -c -O2 -fPIC -std=c++17 "$here/kernels.cpp" -o kernels.o

if [[ ! -d site/pycuda ]]; then
  rm -rf source site.new
  g++ "${flags[@]}" libcuda.o kernels.o -o lib/libcuda.so -ldl
  "$python" -m pip download --quiet --no-deps --no-binary pycuda --dest source "pycuda==$version"
  tar -xzf "source/pycuda-$version.tar.gz" -C source
  cd "source/pycuda-$version"
  "$python" configure.py --cuda-root="$cuda" --no-cuda-enable-curand --cudadrv-lib-dir="$folder/lib,$cuda/lib64"
  CFLAGS="-O0 -g0" LDFLAGS="-Wl,--no-as-needed" "$python" -m pip install --quiet --target "$folder/site.new" .
  cd "$folder"
  mv site.new site
  rm -rf source
fi

# What pycuda links beside the functions of the fake is there and answers "not supported" (801).
driver=$(echo site/pycuda/_driver*.so)
nm -D --undefined-only "$driver" | grep -o '\bcu[A-Z][A-Za-z0-9_]*' | sort > wanted
nm --defined-only libcuda.o | grep -o '\bcu[A-Z][A-Za-z0-9_]*' | sort > had
comm -23 wanted had | sed 's/.*/int &(void) { return 801; }/' > absent.c
gcc -c -O2 -fPIC absent.c -o absent.o
g++ "${flags[@]}" libcuda.o kernels.o absent.o -o lib/libcuda.so.1.new -ldl
mv lib/libcuda.so.1.new lib/libcuda.so.1
