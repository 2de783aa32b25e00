#!/bin/bash
# number_source.sh N: the C++ source of one small library, number_N(), that adds N to number_<N-1>().
set -euo pipefail
n=$1
cat <<SOURCE
#include <cstdint>
#include <numeric>
#include <vector>
SOURCE
if ((n > 0)); then
  echo "std::uint64_t number_$((n - 1))();"
  below="number_$((n - 1))()"
else
  below=0
fi
cat <<SOURCE
std::uint64_t number_$n() {
  std::vector<std::uint64_t> ones($n, 1);
  return $below + std::accumulate(ones.begin(), ones.end(), std::uint64_t{0});
}
SOURCE
