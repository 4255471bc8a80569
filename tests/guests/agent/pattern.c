/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A block's first word is its index and generation, each further word a number that depends on
 * seed, index, generation and position.  A block that was lost, mixed up with another one, or
 * brought back to an older state therefore shows in any of its words, and does not compress.
 */
#include "agent.h"

static const uint64_t STEP = 0x9e3779b97f4a7c15u;
static const uint64_t FNV_PRIME = 0x100000001b3u;
static const uint64_t FNV_START = 0xcbf29ce484222325u;

static uint64_t stir(uint64_t x)
{
    x ^= x >> 31;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 29;
    x *= 0xc2b2ae3d27d4eb4fu;
    return x ^ (x >> 32);
}

static uint64_t head(uint32_t index, uint32_t generation)
{
    return (uint64_t)index << 32 | generation;
}

static uint64_t base(PatternSeed seed, uint32_t index, uint32_t generation)
{
    return stir(head(index, generation) ^ ((uint64_t)seed + 1) << 20);
}

void pattern_fill(uint64_t *block, PatternSeed seed, uint32_t index, uint32_t generation)
{
    uint64_t word = base(seed, index, generation);
    block[0] = head(index, generation);
    for (unsigned i = 1; i < CELL_WORDS; i++) {
        word += STEP;
        block[i] = word ^ word >> 32;
    }
}

unsigned pattern_check(const uint64_t *block, PatternSeed seed, uint32_t index, uint32_t generation,
                       uint64_t *actual, uint64_t *expected)
{
    uint64_t word = base(seed, index, generation);
    uint64_t right = head(index, generation);
    uint64_t found_hash = FNV_START;
    uint64_t right_hash = FNV_START;
    unsigned wrong = 0;
    for (unsigned i = 0; i < CELL_WORDS; i++) {
        if (i > 0) {
            word += STEP;
            right = word ^ word >> 32;
        }
        wrong += block[i] != right;
        found_hash = (found_hash ^ block[i]) * FNV_PRIME;
        right_hash = (right_hash ^ right) * FNV_PRIME;
    }
    *actual += stir(found_hash);
    *expected += stir(right_hash);
    return wrong;
}

static uint64_t last_word(PatternSeed seed, uint32_t index, uint32_t generation)
{
    uint64_t last = base(seed, index, generation) + STEP * (CELL_WORDS - 1);
    return last ^ last >> 32;
}

uint64_t pattern_state(PatternSeed seed, uint32_t index, uint32_t generation)
{
    return stir(head(index, generation) ^ stir(last_word(seed, index, generation)));
}

unsigned pattern_sample(const uint64_t *block, PatternSeed seed, uint32_t index,
                        uint32_t generation, uint64_t *actual, uint64_t *expected)
{
    *actual += stir(block[0] ^ stir(block[CELL_WORDS - 1]));
    *expected += pattern_state(seed, index, generation);
    return (unsigned)(block[0] != head(index, generation)) +
           (unsigned)(block[CELL_WORDS - 1] != last_word(seed, index, generation));
}
