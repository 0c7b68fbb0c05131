#!/usr/bin/env bash
# Replays the fuzzer's corpus under AddressSanitizer and UndefinedBehaviorSanitizer; no clang needed.
# Usage: replay.sh FOLDER
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
${CC:-cc} -g -O1 -DREPLAY -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=all \
    "$here/fuzz_activity.c" "$here/../../xsp/levels/_native/activity.c" -o "$folder/replay" -lpthread
"$folder/replay" "$here"/corpus/*
