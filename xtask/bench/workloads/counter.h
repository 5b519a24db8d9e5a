/* What the workloads of the benchmark share: the first argument names a file that holds one 64-bit number, the units of
 * work done so far; the second, where there is one, is the CPU to stay on. They run until they are killed, and end with
 * whoever started them. */
#ifndef COUNTER_H
#define COUNTER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* A function that stays a frame of its own. */
#define FRAME __attribute__((noinline, noclone))
/* No workload uses all of this file. */
#define UNUSED __attribute__((unused))

/* Calls below main; main, the three functions that libc puts above it and the leaf come on top. */
#ifndef LEVELS
#define LEVELS 20
#endif

static volatile uint64_t *units;
/* Results go here, so that the compiler keeps the work. */
static volatile uint64_t sink;

static void fail(const char *what) {
    perror(what);
    _exit(1);
}

static void begin(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: %s COUNTER [CPU]\n", arguments[0]);
        _exit(2);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int file = open(arguments[1], O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof *units)) fail(arguments[1]);
    void *map = mmap(NULL, sizeof *units, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) fail("mmap");
    units = map;
    if (count > 2) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(arguments[2]), &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus)) fail("sched_setaffinity");
    }
}

/* Calls `bottom` from `left` levels further down. Does something after the call, so that it is no tail call. */
static UNUSED FRAME uint64_t descend(unsigned left, uint64_t x, uint64_t (*bottom)(uint64_t)) {
    uint64_t result = left <= 1 ? bottom(x) : descend(left - 1, x + left, bottom);
    sink += result;
    return result ^ left;
}

#endif
