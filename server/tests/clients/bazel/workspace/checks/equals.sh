#!/bin/bash
# equals.sh FILE TEXT: is the file's text that text?
set -euo pipefail
[[ "$(cat "$1")" == "$2" ]]
