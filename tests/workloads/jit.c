/* Machine code made at run time, in memory without a name, listed in /tmp/perf-PID.map:
 *   main -> drive -> enter_code -> jit_call -> native -> native_cost    code that keeps a frame pointer and calls back
 *   main -> drive -> enter_code -> jit_spin                             code that does the work itself
 * The functions around it keep none. */
#include "truth.h"
#include <sys/mman.h>

typedef uint64_t (*code_fn)(uint64_t);

FRAME uint64_t native_cost(uint64_t x) { return churn(x, ROUNDS) + 1; }

FRAME uint64_t native(uint64_t x) {
    uint64_t result = native_cost(x);
    truth_sink += result;
    return result ^ 1;
}

FRAME uint64_t enter_code(code_fn code, uint64_t x) {
    uint64_t result = code(x);
    truth_sink ^= result;
    return result + 1;
}

/* push %rbp; mov %rsp,%rbp; mov $native,%rax; call *%rax; inc %rax; pop %rbp; ret */
static const unsigned char call_begin[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8};
static const unsigned char call_end[] = {0xff, 0xd0, 0x48, 0xff, 0xc0, 0x5d, 0xc3};
/* push %rbp; mov %rsp,%rbp; xor %eax,%eax; 1: imul %rdi,%rax; add %rdi,%rax; dec %rdi; jnz 1b; pop %rbp; ret */
static const unsigned char spin[] = {0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0x48, 0x0f, 0xaf, 0xc7, 0x48,
                                     0x01, 0xf8, 0x48, 0xff, 0xcf, 0x75, 0xf4, 0x5d, 0xc3};

static code_fn jit_call, jit_spin;

static void make_code(void) {
    unsigned char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) truth_fail("mmap");
    void *target = (void *)native;
    memcpy(memory, call_begin, sizeof call_begin);
    memcpy(memory + sizeof call_begin, &target, sizeof target);
    memcpy(memory + sizeof call_begin + sizeof target, call_end, sizeof call_end);
    memcpy(memory + 512, spin, sizeof spin);
    if (mprotect(memory, 4096, PROT_READ | PROT_EXEC)) truth_fail("mprotect");
    jit_call = (code_fn)memory;
    jit_spin = (code_fn)(memory + 512);
}

static void map_path(char *path, size_t size) { snprintf(path, size, "/tmp/perf-%d.map", (int)getpid()); }

static void write_map(void) {
    char path[64];
    map_path(path, sizeof path);
    FILE *map = fopen(path, "w");
    if (!map) truth_fail(path);
    fprintf(map, "%lx %zx jit_call\n", (unsigned long)jit_call, sizeof call_begin + sizeof(void *) + sizeof call_end);
    fprintf(map, "%lx %zx jit_spin\n", (unsigned long)jit_spin, sizeof spin);
    if (fclose(map)) truth_fail(path);
}

static FRAME void drive(void) {
    uint64_t state = (uint64_t)getpid();
    while (!truth_stopped()) {
        int calls = percent(&state) < 60;
        span_begin(calls ? "native_cost" : "jit_spin");
        truth_sink ^= calls ? enter_code(jit_call, state) : enter_code(jit_spin, ROUNDS);
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(void) {
    char path[64];
    make_code();
    write_map();
    truth_begin("jit");
    truth_ready();
    drive();
    truth_thread_end();
    truth_write();
    /* The map stays for a moment longer than the process: the profiler's reader may be behind. */
    sleep_ns(200000000);
    map_path(path, sizeof path);
    unlink(path);
    return 0;
}
