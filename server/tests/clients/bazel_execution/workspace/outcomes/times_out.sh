#!/bin/bash
# times_out.sh PORT: says a word, and never ends; nor does what it started, which also has the gate's connection.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/$1"
echo times_out >&3
echo CASK-FIXTURE-BEFORE-THE-TIMEOUT
setsid sleep infinity &
sleep infinity
