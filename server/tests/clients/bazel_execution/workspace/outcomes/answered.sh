#!/bin/bash
# answered.sh PORT: passes when it is told so at the gate.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/$1"
echo flaky >&3
read -r answer <&3
echo "the answer is $answer"
[[ "$answer" == pass ]]
