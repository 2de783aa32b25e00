#include "app/sum.h"

std::uint64_t number_19();

std::uint64_t sum_of_numbers() { return number_19(); }
