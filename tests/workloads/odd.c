/* Frames that are not like others, below main -> drive:
 *   vdso      ask_clock -> clock_gettime in libc -> the vDSO
 *   signal    raise_it -> libc -> signal trampoline -> on_signal -> signal_cost
 *   altstack  raise_other -> libc -> trampoline -> on_other -> other_cost, on a stack of its own
 *   realigned align_stack -> aligned_cost: the stack pointer rounded down to 64
 *   variable  grow_stack -> variable_cost: arrays of a length known at run time only
 *   loaded    call_loaded -> loaded_entry -> loaded_cost, in a library that is loaded anew every second
 *   coroutine main's own stack is left: coroutine -> coroutine_cost is all there is
 *   tail      tail_first, which is left by a jump, so that drive -> tail_last -> tail_cost remains
 *   assembly  asm_outer -> asm_inner -> assembly_cost: by hand, with CFI; the CFA is once by rbx, and moves
 * The argument is the path of the library. */
#include "truth.h"
#include <alloca.h>
#include <dlfcn.h>
#include <ucontext.h>

FRAME uint64_t ask_clock(void) {
    uint64_t sum = 0;
    struct timespec now;
    for (unsigned i = 0; i < 10000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        sum += (uint64_t)now.tv_nsec;
    }
    return sum;
}

FRAME uint64_t signal_cost(uint64_t x) { return churn(x, ROUNDS) + 1; }
FRAME uint64_t other_cost(uint64_t x) { return churn(x, ROUNDS) + 2; }
FRAME uint64_t aligned_cost(uint64_t x) { return churn(x, ROUNDS) + 3; }
FRAME uint64_t variable_cost(uint64_t x) { return churn(x, ROUNDS) + 4; }
FRAME uint64_t coroutine_cost(uint64_t x) { return churn(x, ROUNDS) + 5; }
FRAME uint64_t tail_cost(uint64_t x) { return churn(x, ROUNDS) + 6; }
__attribute__((used)) FRAME uint64_t assembly_cost(uint64_t x) { return churn(x, ROUNDS) + 7; }

FRAME void on_signal(int signal) { truth_sink ^= signal_cost((uint64_t)signal); }
FRAME void on_other(int signal) { truth_sink ^= other_cost((uint64_t)signal); }

FRAME void raise_it(void) {
    raise(SIGUSR1);
    truth_sink += 1;
}

FRAME void raise_other(void) {
    raise(SIGUSR2);
    truth_sink += 1;
}

__attribute__((force_align_arg_pointer)) FRAME uint64_t align_stack(uint64_t x) {
    volatile uint64_t kept[8] __attribute__((aligned(64))) = {x};
    uint64_t result = aligned_cost(kept[0]);
    return result + kept[x % 8];
}

FRAME uint64_t grow_stack(unsigned n, uint64_t x) {
    volatile uint64_t list[n + 1];
    volatile char *more = alloca(n * 3 + 1);
    list[n] = x;
    more[n] = (char)x;
    uint64_t result = variable_cost(list[n]);
    return result + list[n] + (uint64_t)more[n];
}

static const char *library;
static uint64_t (*loaded_entry)(uint64_t);

/* Every second at another address, as far as the kernel likes. */
static FRAME void load(void) {
    static void *handle;
    static uint64_t loaded_ns;
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (handle && now - loaded_ns < 1000000000u) return;
    if (handle) dlclose(handle);
    handle = dlopen(library, RTLD_NOW);
    if (!handle) truth_fail(dlerror());
    loaded_entry = (uint64_t(*)(uint64_t))dlsym(handle, "loaded_entry");
    loaded_ns = now;
}

FRAME uint64_t call_loaded(uint64_t x) {
    uint64_t result = loaded_entry(x);
    return result ^ 1;
}

static ucontext_t main_context, own_context;

FRAME void coroutine(void) {
    for (;;) {
        truth_sink ^= coroutine_cost(truth_sink);
        swapcontext(&own_context, &main_context);
    }
}

static FRAME void make_coroutine(void) {
    static char stack[65536];
    getcontext(&own_context);
    own_context.uc_stack.ss_sp = stack;
    own_context.uc_stack.ss_size = sizeof stack;
    own_context.uc_link = &main_context;
    makecontext(&own_context, coroutine, 0);
}

FRAME void resume(void) {
    swapcontext(&main_context, &own_context);
    truth_sink += 1;
}

FRAME uint64_t tail_last(uint64_t x) {
    uint64_t result = tail_cost(x);
    truth_sink += result;
    return result ^ 1;
}

FRAME uint64_t tail_first(uint64_t x) { return tail_last(x + 1); }

uint64_t asm_outer(uint64_t x);
#ifdef __x86_64__
__asm__(".text\n"
        ".p2align 4\n"
        ".globl asm_outer\n"
        ".type asm_outer, @function\n"
        "asm_outer:\n"
        ".cfi_startproc\n"
        "    pushq %rbx\n"
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbx, 0\n"
        "    movq %rsp, %rbx\n"
        ".cfi_def_cfa_register %rbx\n"
        "    subq $64, %rsp\n"
        "    call asm_inner\n"
        "    movq %rbx, %rsp\n"
        ".cfi_def_cfa_register %rsp\n"
        "    popq %rbx\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbx\n"
        "    ret\n"
        ".cfi_endproc\n"
        ".size asm_outer, .-asm_outer\n"
        ".p2align 4\n"
        ".type asm_inner, @function\n"
        "asm_inner:\n"
        ".cfi_startproc\n"
        "    pushq %rbp\n"
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbp, 0\n"
        "    movq %rdi, %rbp\n"
        "    pushq %rdi\n"
        ".cfi_adjust_cfa_offset 8\n"
        "    pushq %rsi\n"
        ".cfi_adjust_cfa_offset 8\n"
        "    subq $8, %rsp\n"
        ".cfi_adjust_cfa_offset 8\n"
        "    call assembly_cost\n"
        "    addq $24, %rsp\n"
        ".cfi_adjust_cfa_offset -24\n"
        "    addq %rbp, %rax\n"
        "    popq %rbp\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbp\n"
        "    ret\n"
        ".cfi_endproc\n"
        ".size asm_inner, .-asm_inner\n");
#else
uint64_t asm_outer(uint64_t x) { return assembly_cost(x) + 1; }
#endif

static FRAME void drive(void) {
    static const char *const names[] = {"ask_clock",   "signal_cost",    "other_cost", "aligned_cost", "variable_cost",
                                        "loaded_cost", "coroutine_cost", "tail_cost",  "assembly_cost"};
    enum { KINDS = sizeof names / sizeof *names };
    uint64_t state = (uint64_t)getpid();
    while (!truth_stopped()) {
        unsigned kind = percent(&state) % KINDS;
        load();
        span_begin(names[kind]);
        switch (kind) {
        case 0: truth_sink ^= ask_clock(); break;
        case 1: raise_it(); break;
        case 2: raise_other(); break;
        case 3: truth_sink ^= align_stack(state); break;
        case 4: truth_sink ^= grow_stack(percent(&state), state); break;
        case 5: truth_sink ^= call_loaded(state); break;
        case 6: resume(); break;
        case 7: truth_sink ^= tail_first(state); break;
        default: truth_sink ^= asm_outer(state); break;
        }
        span_end(0);
    }
    truth_sink ^= 1;
}

static void handle_signals(void) {
    static char stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    if (sigaltstack(&other, NULL)) truth_fail("sigaltstack");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = on_other;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, NULL);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    library = arguments[1];
    truth_begin("odd");
    handle_signals();
    make_coroutine();
    load();
    truth_ready();
    drive();
    truth_thread_end();
    truth_write();
    return 0;
}
