#pragma once

#include <cstdint>

// 0 + 1 + ... + 19, computed by the chain of generated libraries.
std::uint64_t sum_of_numbers();
