//! On-CPU samples: a perf event fires at a fixed frequency on every CPU.

use aya_ebpf::{
    EbpfContext, helpers::bpf_ktime_get_ns, macros::perf_event, programs::PerfEventContext,
};
use profiler_abi::{Counter, CpuSample, KIND_CPU, RecordHeader};

use crate::{
    admit::admit,
    control::{count, session},
    emit,
    stack::{self, Scratch},
    task::Task,
    unwind::Origin,
};

#[perf_event]
pub fn cpu_sample(ctx: PerfEventContext) -> u32 {
    if session().is_none() {
        return 0;
    }
    count(Counter::CpuObserved);
    if ctx.pid() == 0 {
        count(Counter::CpuIdle);
        return 0;
    }
    let task = Task::current();
    if !admit(task) {
        count(Counter::CpuFiltered);
        return 0;
    }
    count(Counter::CpuCounted);
    // SAFETY: a helper without arguments.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let stack = stack::capture(
        ctx.as_ptr(),
        Origin::Interrupt(ctx.as_ptr().cast()),
        Scratch::Cpu,
        task,
    );
    emit::sample(Counter::CpuLostRing, || CpuSample {
        header: RecordHeader {
            kind: KIND_CPU,
            size: size_of::<CpuSample>() as u32,
        },
        time_ns,
        identity: task.identity(),
        stack,
    });
    0
}
