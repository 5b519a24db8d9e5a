# A kernel program that does nothing: what the kernel itself takes to run one.
    .section "tp_btf/sched_switch", "ax", @progbits
    .globl empty
    .type empty, @function
empty:
    r0 = 0
    exit
    .size empty, . - empty

    .section license, "aw", @progbits
    .asciz "GPL"
