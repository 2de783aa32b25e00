#include <iostream>

#include "app/sum.h"

int main() { std::cout << sum_of_numbers() << '\n'; }
