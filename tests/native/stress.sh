#!/usr/bin/env bash
# Compiles stress.c with the native part, five importers and what they import, and runs it; operators.c before it.
# Usage: stress.sh FOLDER SECONDS [COMPILER FLAG ...], for example -fsanitize=address,undefined
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
seconds=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$here/../../xsp/levels/_native
cc=${CC:-cc}

library() { # NAME SOURCE [FLAG ...]
    local name=$1 source=$2
    shift 2
    $cc -O1 -g -shared -fPIC "$here/$source" "$@" -L"$folder" '-Wl,-rpath,$ORIGIN' -o "$folder/$name.so"
}

library libcublasLt fake_cublasLt.c
library libcublas fake_cublas.c -lcublasLt
library libcudnn fake_cudnn.c '-DFAKE_PLAN_JSON="{}"'
imports=(-lcublas -lcublasLt -lcudnn)
library lazy importer.c -Wl,-z,lazy "${imports[@]}"
library closed importer.c -Wl,-z,relro,-z,now "${imports[@]}"
for number in 1 2 3; do
    library "without_plt_$number" importer.c -fno-plt -Wl,-z,relro,-z,now "${imports[@]}"
done
$cc -O1 -g -fno-omit-frame-pointer -D_GNU_SOURCE -std=gnu11 "$@" "$here/stress.c" "$native"/*.c \
    -o "$folder/stress" -lpthread -ldl
$cc -O1 -g -fno-omit-frame-pointer -D_GNU_SOURCE -std=gnu11 "$@" "$here/operators.c" "$native/operators.c" \
    "$native/log.c" -o "$folder/operators" -lpthread
cd "$folder"
export TSAN_OPTIONS="suppressions=$here/tsan.supp ${TSAN_OPTIONS:-}"
export UBSAN_OPTIONS="halt_on_error=1 ${UBSAN_OPTIONS:-}"
./operators "$seconds"
exec ./stress "$seconds" ./lazy.so ./lazy.so ./closed.so ./without_plt_{1,2,3}.so
