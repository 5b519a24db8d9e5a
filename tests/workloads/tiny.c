/* The library that `plt` calls. */
#include <stdint.h>

uint64_t tiny_1(uint64_t x) { return x + 1; }
uint64_t tiny_2(uint64_t x) { return x * 3; }
uint64_t tiny_3(uint64_t x) { return x ^ 5; }
uint64_t tiny_4(uint64_t x) { return x >> 1; }
