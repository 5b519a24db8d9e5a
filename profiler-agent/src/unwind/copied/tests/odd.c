// Stacks that are hard to walk. The functions whose names begin with "in_" are the chain that is known;
// each does something after its call, so that none of them is a tail call.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

#define CHAIN __attribute__((noipa))

static volatile uint64_t sink;

static inline __attribute__((always_inline)) void burn(unsigned rounds)
{
    uint64_t x = sink | 1;
    for (unsigned i = 0; i < rounds; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    sink = x;
}

CHAIN void in_leaf(void)
{
    burn(300000);
}

static CHAIN void in_handler(int number)
{
    in_leaf();
    sink += number;
}

CHAIN void in_interrupted(void)
{
    for (;;)
        burn(1000000);
}

static void start_timer(int flags)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = in_handler;
    action.sa_flags = flags;
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

CHAIN void in_signal(void)
{
    start_timer(SA_RESTART);
    in_interrupted();
    sink++;
}

CHAIN void in_other_stack(void)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    start_timer(SA_RESTART | SA_ONSTACK);
    in_interrupted();
    sink++;
}

CHAIN void in_vdso(void)
{
    struct timespec now;
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        sink += now.tv_nsec;
    }
}

CHAIN void in_linkage(void)
{
    unsigned seed = 1;
    for (;;)
        sink += rand_r(&seed);
}

CHAIN void in_realigned(unsigned size)
{
    char buffer[64] __attribute__((aligned(64)));
    char *more = __builtin_alloca(size);
    memset(buffer, sink, sizeof buffer);
    more[size - 1] = buffer[3];
    __asm__ volatile("" : : "r"(more), "r"(buffer) : "memory");
    in_leaf();
    sink += more[size - 1];
}

CHAIN void in_loaded(void)
{
    void *library = dlopen("libm.so.6", RTLD_NOW);
    double (*function)(double) = (double (*)(double))dlsym(library, "lgamma");
    for (double x = 1;; x += 0.001)
        sink += (uint64_t)function(x);
}

CHAIN void in_recursion(int depth)
{
    if (depth > 0)
        in_recursion(depth - 1);
    else
        in_leaf();
    sink++;
}

static CHAIN int in_compare(const void *a, const void *b)
{
    in_leaf();
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

CHAIN void in_sort(void)
{
    int numbers[64];
    for (int i = 0; i < 64; i++)
        numbers[i] = rand();
    qsort(numbers, 64, sizeof *numbers, in_compare);
    sink += numbers[0];
}

static ucontext_t here, there;

static CHAIN void in_coroutine(void)
{
    for (;;) {
        in_leaf();
        sink++;
    }
}

CHAIN void in_switch(void)
{
    getcontext(&there);
    there.uc_stack.ss_size = 1 << 16;
    there.uc_stack.ss_sp = malloc(there.uc_stack.ss_size);
    there.uc_link = &here;
    makecontext(&there, in_coroutine, 0);
    swapcontext(&here, &there);
    sink++;
}

static CHAIN void *in_thread(void *argument)
{
    for (;;) {
        in_leaf();
        sink++;
    }
    return argument;
}

CHAIN void in_threads(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, NULL);
    sink++;
}

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "";
    for (;;) {
        if (!strcmp(what, "signal"))
            in_signal();
        else if (!strcmp(what, "other_stack"))
            in_other_stack();
        else if (!strcmp(what, "vdso"))
            in_vdso();
        else if (!strcmp(what, "linkage"))
            in_linkage();
        else if (!strcmp(what, "realigned"))
            in_realigned(100);
        else if (!strcmp(what, "loaded"))
            in_loaded();
        else if (!strcmp(what, "recursion"))
            in_recursion(400);
        else if (!strcmp(what, "sort"))
            in_sort();
        else if (!strcmp(what, "coroutine"))
            in_switch();
        else if (!strcmp(what, "thread"))
            in_threads();
        else
            return 1;
    }
}
