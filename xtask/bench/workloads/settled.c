/* Put before a program's main by LD_PRELOAD: the program and all its libraries are mapped, but it never begins. Instead
 * it sleeps, and works a little now and then. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) static void work(void) {
    uint64_t value = sink;
    for (unsigned i = 0; i < 100000; i++) value = (value ^ (value >> 29)) * 0xbf58476d1ce4e5b9u + i;
    sink = value;
}

__attribute__((constructor)) static void settle(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        work();
        nanosleep(&(struct timespec){0, 500000000}, NULL);
    }
}
