//! A small capture with something in every field.

use std::collections::BTreeMap;

use profiler_proto::{
    Attribute, Capture, CaptureSpec, CommandResult, DeviceStatistics, Dictionary, EndReason, Event,
    EventFacts, EventLedger, Facts, Frame, FrameId, FrameKind, Histogram, Ledger, Line, LossReason,
    Mapping, MappingId, OwnCost, Process, Profile, Sample, SkipReason, Stack, StackEnd, StackId,
    StrId, Target, Thread, ThreadAccount, ThreadId, UnwindFacts, UnwindMethod, chunks, pb,
};

/// 2026-11-20 12:00:00 UTC.
const START_NS: u64 = 1_795_176_000_000_000_000;

/// Which agents could have made a capture.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    /// Those that knew frame pointers alone.
    FramePointers,
    /// Those that unwind by tables and walk interpreters.
    Tables,
}

pub(crate) fn capture() -> Capture {
    capture_of(Agent::Tables)
}

/// What such an agent could say.
pub(crate) fn capture_of(agent: Agent) -> Capture {
    let mut dictionary = Dictionary::new();
    let threads = threads(&mut dictionary);
    let stacks = stacks(&mut dictionary, agent);
    let profiles = profiles(&mut dictionary, threads, stacks);
    Capture {
        profiles,
        accounts: vec![ThreadAccount {
            thread: threads[0],
            on_cpu_ns: 6_000_000_000,
            runnable_ns: 1_000_000_000,
            blocked_ns: 3_000_000_000,
            blocked_count: 12,
            runnable_count: 34,
            wall_ns: 10_000_000_000,
            unfinished_ns: 5,
        }],
        devices: vec![DeviceStatistics {
            host: StrId::NONE,
            device: dictionary.intern_string("vda"),
            operation: dictionary.intern_string("write"),
            count: 3,
            bytes: 12_288,
            queue_ns: 3_000,
            device_ns: 900_000,
            errors: 1,
            queue_histogram: Histogram {
                buckets: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
            },
            device_histogram: Histogram {
                buckets: vec![1, 2],
            },
        }],
        facts: facts(agent),
        ledger: ledger(agent),
        dictionary,
    }
}

/// The same as one chunk.
pub(crate) fn chunk() -> pb::Chunk {
    let capture = capture();
    let mut chunks: Vec<_> = chunks(&capture).collect();
    assert_eq!(chunks.len(), 1);
    chunks.remove(0)
}

fn threads(dictionary: &mut Dictionary) -> [ThreadId; 2] {
    let process = Process {
        pid: 4242,
        start_ns: 77_000_000_001,
        exec_generation: 2,
        comm: dictionary.intern_string("postgres"),
        executable: dictionary.intern_string("/usr/lib/postgresql/15/bin/postgres"),
        cgroup: dictionary.intern_string("/system.slice/postgresql.service"),
        container: dictionary.intern_string("0f1e2d3c4b5a"),
        host: StrId::NONE,
    };
    let process = dictionary.intern_process(process);
    [(4242, "postgres"), (4243, "wal writer")].map(|(tid, comm)| {
        let comm = dictionary.intern_string(comm);
        dictionary.intern_thread(Thread {
            process,
            tid,
            start_ns: 77_000_000_001,
            comm,
        })
    })
}

fn named(dictionary: &mut Dictionary, functions: &[&str]) -> Vec<Line> {
    let line = |function: &&str| Line {
        function: dictionary.intern_string(function),
        file: StrId::NONE,
        line: 0,
    };
    functions.iter().map(line).collect()
}

fn stacks(dictionary: &mut Dictionary, agent: Agent) -> [StackId; 2] {
    let mapping = Mapping {
        path: dictionary.intern_string("/usr/lib/postgresql/15/bin/postgres"),
        build_id: vec![0xde, 0xad, 0xbe, 0xef],
    };
    let mapping = dictionary.intern_mapping(mapping);
    let mut lines = named(dictionary, &["inlined", "ExecScan"]);
    lines[1].file = dictionary.intern_string("execScan.c");
    lines[1].line = 158;
    let leaf = frame(dictionary, FrameKind::User, mapping, 0x1234, lines);
    let lines = named(dictionary, &["main"]);
    let root = frame(dictionary, FrameKind::User, mapping, 0x1000, lines);
    let lines = named(dictionary, &["io_schedule"]);
    let kernel = frame(
        dictionary,
        FrameKind::Kernel,
        MappingId::NONE,
        0xffff_ffff_8100_0000,
        lines,
    );
    let unnamed = frame(
        dictionary,
        FrameKind::User,
        MappingId::NONE,
        0x7f00_0000_1000,
        Vec::new(),
    );
    let mut running = Stack {
        user: vec![leaf, root],
        user_end: StackEnd::FramePointers,
        user_method: UnwindMethod::Unknown,
        kernel: Vec::new(),
        kernel_end: StackEnd::None,
    };
    let mut waiting = Stack {
        user: vec![unnamed],
        user_end: StackEnd::Cut,
        user_method: UnwindMethod::Unknown,
        kernel: vec![kernel],
        kernel_end: StackEnd::Whole,
    };
    if agent == Agent::Tables {
        let mut lines = named(dictionary, &["handle"]);
        lines[0].file = dictionary.intern_string("/srv/app.py");
        lines[0].line = 12;
        let none = MappingId::NONE;
        let script = frame(dictionary, FrameKind::Interpreted, none, 0, lines);
        running.user.insert(1, script);
        running.user_end = StackEnd::Whole;
        running.user_method = UnwindMethod::Mixed;
        waiting.user_method = UnwindMethod::Copy;
        waiting.user_end = StackEnd::NoRule;
    }
    [running, waiting].map(|stack| dictionary.intern_stack(stack))
}

fn frame(
    dictionary: &mut Dictionary,
    kind: FrameKind,
    mapping: MappingId,
    address: u64,
    lines: Vec<Line>,
) -> FrameId {
    dictionary.intern_frame(Frame {
        kind,
        mapping,
        address,
        lines,
    })
}

fn profiles(
    dictionary: &mut Dictionary,
    threads: [ThreadId; 2],
    stacks: [StackId; 2],
) -> Vec<Profile> {
    let blocked = vec![
        Attribute::WaitClass(dictionary.intern_string("blocked")),
        Attribute::WaitExtent(dictionary.intern_string("unfinished")),
    ];
    let blocked = dictionary.intern_attributes(blocked);
    let write = vec![
        Attribute::Device(dictionary.intern_string("vda")),
        Attribute::Operation(dictionary.intern_string("write")),
        Attribute::IoBytes(4096),
        Attribute::QueueNs(1000),
    ];
    let write = dictionary.intern_attributes(write);
    let sample = |offset_ns, thread: usize, stack: usize| Sample {
        time_ns: START_NS + offset_ns,
        thread: threads[thread],
        stack: stacks[stack],
        weight: 10_101_010,
        count: 1,
        ..Sample::default()
    };
    let cpu = vec![sample(0, 0, 0), sample(10_101_010, 1, 0)];
    let mut offcpu = vec![sample(5_000_000, 0, 1)];
    offcpu[0].attributes = blocked;
    // Waits are reported when they end, so times can go back.
    let mut io = vec![sample(9_000_000, 0, 1), sample(8_000_000, 1, 1)];
    io[0].attributes = write;
    io[1].attributes = write;
    io[1].count = 2;
    let events = Event::ALL.into_iter();
    let profiles = events.zip([cpu, offcpu, io]);
    profiles
        .map(|(event, samples)| Profile { event, samples })
        .collect()
}

fn spec() -> CaptureSpec {
    let target = Target::new(
        vec!["4242".parse().unwrap()],
        true,
        vec!["postgres".parse().unwrap()],
        Some("/sys/fs/cgroup/system.slice".into()),
    );
    CaptureSpec::new(
        Event::ALL.to_vec(),
        target.unwrap(),
        "10s".parse().unwrap(),
        "99".parse().unwrap(),
    )
    .unwrap()
}

fn facts(agent: Agent) -> Facts {
    let event = |event, mechanism: &str, parameter: (&str, f64)| EventFacts {
        event,
        available: true,
        mechanism: mechanism.to_owned(),
        reason: String::new(),
        parameters: BTreeMap::from([(parameter.0.to_owned(), parameter.1)]),
    };
    Facts {
        host: "db1".into(),
        kernel: "6.12.57".into(),
        architecture: "x86_64".into(),
        agent_version: "0.1.0".into(),
        online_cpus: 2,
        start_ns: START_NS,
        end_ns: START_NS + 10_000_000_000,
        spec: spec(),
        events: vec![
            event(Event::Cpu, "perf cpu-clock", ("frequency_hz", 99.0)),
            event(Event::OffCpu, "sched_exit_tp", ("threshold_ns_last", 0.5)),
            EventFacts {
                event: Event::Io,
                available: false,
                mechanism: String::new(),
                reason: "no permission to attach to block_rq_issue; add CAP_PERFMON".into(),
                parameters: BTreeMap::new(),
            },
        ],
        own_cost: OwnCost {
            agent_cpu_ns: 30_000_000,
            agent_rss_bytes: 20 << 20,
            bpf_map_bytes: 8 << 20,
            bpf_run_ns: 1_000_000,
            bpf_runs: 2_000,
        },
        end_reason: EndReason::TargetExited,
        warnings: vec!["kernel symbols are hidden".into()],
        memory_bytes: 8 << 30,
        command: Some(CommandResult {
            argv: vec!["sleep".into(), "10".into()],
            exit_code: -1,
        }),
        unwind: match agent {
            Agent::FramePointers => UnwindFacts::default(),
            Agent::Tables => UnwindFacts {
                tables_built: 31,
                tables_refused: BTreeMap::from([("not an ELF file".into(), 1)]),
                table_bytes: 9 << 20,
                build_cpu_ns: 400_000_000,
                processes_without_table: 2,
                copies_taken: 17,
                copies_lost: 3,
            },
        },
    }
}

fn ledger(agent: Agent) -> Ledger {
    let mut cpu = EventLedger::new(Event::Cpu);
    cpu.expected = 1980;
    cpu.observed = 1970;
    cpu.idle = 1900;
    cpu.filtered = 60;
    cpu.unsampled = 1;
    cpu.counted = 9;
    cpu.delivered = 2;
    cpu.losses = BTreeMap::from([
        (LossReason::RingBufferFull, 4),
        (LossReason::Unexplained, 3),
    ]);
    cpu.skipped = BTreeMap::from([(SkipReason::Recursion, 12), (SkipReason::TickMissing, -2)]);
    cpu.user_stacks = BTreeMap::from([(StackEnd::FramePointers, 2)]);
    cpu.kernel_stacks = BTreeMap::from([(StackEnd::None, 2)]);
    if agent == Agent::Tables {
        cpu.user_stacks = BTreeMap::from([(StackEnd::Whole, 1), (StackEnd::NoProgress, 1)]);
        cpu.user_methods = BTreeMap::from([(UnwindMethod::Mixed, 2)]);
    }
    cpu.user_frames = 4;
    cpu.unnamed_user_frames = 1;
    cpu.exact_weight = 20_000_000;
    cpu.sampled_weight = 20_202_020;
    Ledger {
        events: vec![cpu, EventLedger::new(Event::OffCpu)],
    }
}
