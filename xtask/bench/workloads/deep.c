/* Takes all the CPU it gets, LEVELS + 5 frames down, in one of eight functions. One unit is one call of the leaf, some
 * tens of microseconds. */
#include "counter.h"

/* Something stays on the stack, else gcc sets up no frame in a function that calls nothing. */
#define LEAF(name, factor)                                                                             \
    static FRAME uint64_t name(uint64_t x) {                                                           \
        volatile uint64_t kept = x;                                                                    \
        uint64_t value = kept;                                                                         \
        for (unsigned i = 0; i < 20000; i++) value = (value ^ (value >> 29)) * (uint64_t)(factor) + i; \
        return value;                                                                                  \
    }
LEAF(leaf_0, 0xbf58476d1ce4e5b9u)
LEAF(leaf_1, 0x94d049bb133111ebu)
LEAF(leaf_2, 0x9e3779b97f4a7c15u)
LEAF(leaf_3, 0xff51afd7ed558ccdu)
LEAF(leaf_4, 0xc4ceb9fe1a85ec53u)
LEAF(leaf_5, 0xd6e8feb86659fd93u)
LEAF(leaf_6, 0xa0761d6478bd642fu)
LEAF(leaf_7, 0xe7037ed1a0b428dbu)

int main(int count, char **arguments) {
    uint64_t (*leaves[])(uint64_t) = {leaf_0, leaf_1, leaf_2, leaf_3, leaf_4, leaf_5, leaf_6, leaf_7};
    begin(count, arguments);
    for (;;) {
        sink ^= descend(LEVELS, sink, leaves[sink % 8]);
        ++*units;
    }
}
