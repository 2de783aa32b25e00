#!/bin/sh
echo "coverage is not part of this fixture" >&2
exit 1
