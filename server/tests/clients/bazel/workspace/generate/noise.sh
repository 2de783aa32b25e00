#!/bin/bash
# noise.sh SEED MEBIBYTES: that many mebibytes of bytes no compressor can shrink, the same ones for the same seed.
set -euo pipefail
exec python3 - "$1" "$2" <<'PYTHON'
import hashlib
import sys

seed, mebibytes = sys.argv[1], int(sys.argv[2])
for index in range(mebibytes):
    sys.stdout.buffer.write(hashlib.shake_128(f"{seed} {index}".encode()).digest(1 << 20))
PYTHON
