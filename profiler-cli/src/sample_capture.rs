//! Small captures for tests.

// The path is for the tests of the whole program, which have this file elsewhere.
#[path = "sample_capture/languages.rs"]
mod languages;

use std::collections::BTreeMap;

use profiler_proto::{
    Attribute, AttributesId, Capture, CaptureDuration, CaptureSpec, DeviceStatistics, Dictionary,
    EndReason, Event, EventFacts, EventLedger, Facts, Frame, FrameId, FrameKind, Frequency,
    Histogram, Ledger, Line, LossReason, Mapping, MappingId, OwnCost, Process, Profile, Sample,
    SkipReason, Stack, StackEnd, StackId, StrId, Target, Thread, ThreadId, UnwindFacts,
    UnwindMethod,
};

pub(crate) use languages::languages;

/// 2026-11-20 13:55:01 UTC.
const START_NS: u64 = 1_795_182_901_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// At 99 Hz.
const PERIOD_NS: u64 = 10_101_010;

/// Names that try to break out of what they are printed in.
pub(crate) const HOSTILE_NAMES: [&str; 7] = [
    "a;b;forged",
    "line\nforged;frame 99",
    "fake_kernel_[k]",
    "number 42",
    "</text><script>alert(1)</script>",
    "esc\u{1b}]0;title\u{7}",
    "trailing  ",
];

/// Builds the dictionary of a capture.
struct Builder {
    dictionary: Dictionary,
    app: MappingId,
    libc: MappingId,
    kernel: MappingId,
}

impl Builder {
    fn new() -> Self {
        let mut dictionary = Dictionary::new();
        let mut mapping = |path: &str, build_id: &[u8]| {
            let path = dictionary.intern_string(path);
            let build_id = build_id.to_vec();
            dictionary.intern_mapping(Mapping { path, build_id })
        };
        Self {
            app: mapping("/usr/bin/app", &[0xab, 0xcd, 0x01]),
            libc: mapping("/usr/lib/x86_64-linux-gnu/libc.so.6", &[0x17]),
            kernel: mapping("[kernel]", &[]),
            dictionary,
        }
    }

    fn string(&mut self, text: &str) -> StrId {
        self.dictionary.intern_string(text)
    }

    /// `names` are innermost first, as inlined functions are.
    fn frame(&mut self, mapping: MappingId, address: u64, names: &[&str]) -> FrameId {
        let file = self.string("src/app.rs");
        let lines = names
            .iter()
            .zip(10..)
            .map(|(name, line)| Line {
                function: self.dictionary.intern_string(name),
                file,
                line,
            })
            .collect();
        let kind = if mapping == self.kernel {
            FrameKind::Kernel
        } else {
            FrameKind::User
        };
        self.dictionary.intern_frame(Frame {
            kind,
            mapping,
            address,
            lines,
        })
    }

    fn user(&mut self, name: &str) -> FrameId {
        let address = name.bytes().map(u64::from).sum::<u64>() + 0x1000;
        self.frame(self.app, address, &[name])
    }

    fn in_kernel(&mut self, name: &str) -> FrameId {
        let address = name.bytes().map(u64::from).sum::<u64>() + 0xffff_0000;
        self.frame(self.kernel, address, &[name])
    }

    /// Names are root first, kernel names after user names.
    fn stack(&mut self, user: &[FrameId], kernel: &[FrameId], user_end: StackEnd) -> StackId {
        let leaf_first = |frames: &[FrameId]| frames.iter().rev().copied().collect::<Vec<_>>();
        let kernel_end = if kernel.is_empty() {
            StackEnd::None
        } else {
            StackEnd::Whole
        };
        self.dictionary.intern_stack(Stack {
            user: leaf_first(user),
            user_end,
            // As of an agent that knew one way only.
            user_method: UnwindMethod::Unknown,
            kernel: leaf_first(kernel),
            kernel_end,
        })
    }

    fn thread(&mut self, comm: &str, pid: u32, tid: u32) -> ThreadId {
        let comm = self.string(comm);
        let executable = self.string("/usr/bin/app");
        let process = self.dictionary.intern_process(Process {
            pid,
            start_ns: u64::from(pid),
            comm,
            executable,
            ..Process::default()
        });
        self.dictionary.intern_thread(Thread {
            process,
            tid,
            start_ns: u64::from(tid),
            comm,
        })
    }

    fn wait(&mut self, class: &str, extent: &str) -> AttributesId {
        let mut attributes = vec![Attribute::WaitClass(self.string(class))];
        if !extent.is_empty() {
            attributes.push(Attribute::WaitExtent(self.string(extent)));
        }
        self.dictionary.intern_attributes(attributes)
    }

    fn kernel_frames(&mut self, names: &[&str]) -> Vec<FrameId> {
        names.iter().map(|name| self.in_kernel(name)).collect()
    }

    fn user_frames(&mut self, names: &[&str]) -> Vec<FrameId> {
        names.iter().map(|name| self.user(name)).collect()
    }
}

fn sample(thread: ThreadId, stack: StackId, weight: u64, count: u64) -> Sample {
    Sample {
        time_ns: START_NS + weight % SECOND_NS,
        thread,
        stack,
        attributes: AttributesId::NONE,
        weight,
        count,
    }
}

/// A capture of the whole host: inlined, nameless and kernel frames, a cut stack, recursion, waits of both
/// classes and of a thread that never ran, disk reads.
pub(crate) fn capture() -> Capture {
    let mut b = Builder::new();
    let app = b.thread("app", 100, 100);
    let pool = b.thread("app-pool", 100, 101);
    let profiles = vec![
        cpu(&mut b, app, pool),
        offcpu(&mut b, app, pool),
        io(&mut b, app),
    ];
    let device = b.string("nvme0n1");
    let operation = b.string("read");
    let devices = vec![device_statistics(device, operation)];
    let ledger = Ledger {
        events: profiles.iter().map(whole_ledger).collect(),
    };
    Capture {
        dictionary: b.dictionary,
        profiles,
        accounts: Vec::new(),
        devices,
        facts: facts(Target::default()),
        ledger,
    }
}

fn cpu(b: &mut Builder, app: ThreadId, pool: ThreadId) -> Profile {
    let main = b.user("main");
    let inlined = b.frame(b.app, 0x2000, &["core::hash::mix", "app::parse"]);
    let nameless = b.frame(b.libc, 0x9_1234, &[]);
    let unmapped = b.frame(MappingId::NONE, 0x7f00_dead_b000, &[]);
    let recursive = b.user("app::walk");
    let read = b.kernel_frames(&["entry_SYSCALL_64", "ksys_read", "vfs_read"]);
    let stacks = [
        (b.stack(&[main, inlined], &[], StackEnd::Whole), 60),
        (
            b.stack(&[main, nameless], &read, StackEnd::FramePointers),
            20,
        ),
        (b.stack(&[main, unmapped], &[], StackEnd::FramePointers), 3),
        (b.stack(&[recursive; 4], &[], StackEnd::Cut), 7),
    ];
    let mut samples: Vec<_> = stacks
        .into_iter()
        .map(|(stack, count)| sample(app, stack, count * PERIOD_NS, count))
        .collect();
    let work = b.user_frames(&["start_thread", "app::pool::work<T, [u8; 32]>"]);
    let stack = b.stack(&work, &[], StackEnd::Whole);
    samples.push(sample(pool, stack, 10 * PERIOD_NS, 10));
    Profile {
        event: Event::Cpu,
        samples,
    }
}

fn offcpu(b: &mut Builder, app: ThreadId, pool: ThreadId) -> Profile {
    let blocked = b.wait("blocked", "");
    let runnable = b.wait("runnable", "");
    let never_ran = b.wait("blocked", "whole-window");
    let futex = b.kernel_frames(&[
        "entry_SYSCALL_64",
        "futex_wait_queue",
        "schedule",
        "__schedule",
    ]);
    let preempted = b.kernel_frames(&["irqentry_exit_to_user_mode", "schedule", "__schedule"]);
    let lock = b.user_frames(&["main", "app::parse", "pthread_mutex_lock"]);
    let work = b.user_frames(&["start_thread", "app::pool::work<T, [u8; 32]>"]);
    let idle = b.thread("idle-daemon", 7, 7);
    let lock = b.stack(&lock, &futex, StackEnd::FramePointers);
    let preempted = b.stack(&work, &preempted, StackEnd::Whole);
    let sleeping = b.stack(&[], &futex, StackEnd::NotRunning);
    let with = |sample: Sample, attributes| Sample {
        attributes,
        ..sample
    };
    Profile {
        event: Event::OffCpu,
        samples: vec![
            with(sample(app, lock, 6_000_400_000, 12), blocked),
            with(sample(pool, preempted, 1_500_000_600, 40), runnable),
            with(sample(pool, lock, 500_000_000, 2), blocked),
            with(sample(idle, sleeping, 10 * SECOND_NS, 1), never_ran),
        ],
    }
}

fn io(b: &mut Builder, app: ThreadId) -> Profile {
    let attributes = vec![
        Attribute::Device(b.string("nvme0n1")),
        Attribute::Operation(b.string("read")),
        Attribute::IoBytes(4096),
        Attribute::QueueNs(2_000),
    ];
    let attributes = b.dictionary.intern_attributes(attributes);
    let user = b.user_frames(&["main", "app::load"]);
    let kernel = b.kernel_frames(&[
        "ksys_read",
        "ext4_readahead",
        "submit_bio_noacct",
        "blk_mq_submit_bio",
    ]);
    let stack = b.stack(&user, &kernel, StackEnd::Whole);
    let read = Sample {
        attributes,
        ..sample(app, stack, 9_600_000, 80)
    };
    Profile {
        event: Event::Io,
        samples: vec![read],
    }
}

fn device_statistics(device: StrId, operation: StrId) -> DeviceStatistics {
    let mut histogram = Histogram::default();
    (0..80).for_each(|i| histogram.add(100_000 + i * 500));
    DeviceStatistics {
        device,
        operation,
        count: 80,
        bytes: 80 * 4096,
        queue_ns: 160_000,
        device_ns: 9_600_000,
        device_histogram: histogram,
        ..DeviceStatistics::default()
    }
}

fn whole_ledger(profile: &Profile) -> EventLedger {
    let delivered = profile.samples.iter().map(|sample| sample.count).sum();
    let mut ledger = EventLedger::new(profile.event);
    ledger.observed = delivered + 1_880;
    ledger.idle = 1_880;
    ledger.counted = delivered;
    ledger.delivered = delivered;
    if profile.event == Event::Cpu {
        ledger.expected = ledger.observed;
    }
    ledger.user_stacks = BTreeMap::from([(StackEnd::Whole, delivered)]);
    ledger
}

fn facts(target: Target) -> Facts {
    let events = Event::ALL.to_vec();
    let duration = CaptureDuration::DEFAULT;
    let mechanisms = ["perf cpu-clock", "tp_btf sched_exit_tp", "tp_btf block_rq"];
    Facts {
        host: "web-1".to_owned(),
        kernel: "6.18.3".to_owned(),
        architecture: "x86_64".to_owned(),
        agent_version: "0.1.0".to_owned(),
        online_cpus: 2,
        start_ns: START_NS,
        end_ns: START_NS + 10 * SECOND_NS,
        spec: CaptureSpec::new(events, target, duration, Frequency::DEFAULT).unwrap(),
        events: Event::ALL
            .into_iter()
            .zip(mechanisms)
            .map(|(event, mechanism)| EventFacts {
                event,
                available: true,
                mechanism: mechanism.to_owned(),
                reason: String::new(),
                parameters: BTreeMap::new(),
            })
            .collect(),
        own_cost: OwnCost::default(),
        end_reason: EndReason::Duration,
        warnings: Vec::new(),
        memory_bytes: 4 << 30,
        command: None,
        unwind: UnwindFacts::default(),
    }
}

/// The same with losses, a stack that was cut, and no I/O.
pub(crate) fn lossy() -> Capture {
    let mut capture = capture();
    capture
        .profiles
        .retain(|profile| profile.event != Event::Io);
    capture.devices.clear();
    let io = capture
        .facts
        .events
        .iter_mut()
        .find(|f| f.event == Event::Io)
        .unwrap();
    io.available = false;
    io.reason = "the kernel has no BTF; build it with CONFIG_DEBUG_INFO_BTF".to_owned();
    capture
        .facts
        .warnings
        .push("2 CPUs came online during the capture".to_owned());
    let ledger = &mut capture.ledger;
    ledger.events.retain(|event| event.event != Event::Io);
    let cpu = &mut ledger.events[0];
    cpu.losses = BTreeMap::from([
        (LossReason::RingBufferFull, 3),
        (LossReason::SampleBudget, 1),
    ]);
    cpu.counted += 4;
    cpu.observed += 4;
    cpu.skipped = BTreeMap::from([(SkipReason::TickMissing, 16)]);
    cpu.expected = cpu.observed + 16;
    cpu.user_stacks = BTreeMap::from([(StackEnd::Whole, 90), (StackEnd::Cut, 10)]);
    cpu.user_frames = 250;
    cpu.unnamed_user_frames = 23;
    let offcpu = &mut ledger.events[1];
    offcpu.exact_weight = 18_020_000_000;
    offcpu.sampled_weight = 18_000_401_000;
    capture
}

/// Thread and function names that try to break out.
pub(crate) fn hostile() -> Capture {
    let mut b = Builder::new();
    let samples = HOSTILE_NAMES
        .iter()
        .zip(1..)
        .map(|(name, id)| {
            let thread = b.thread(name, id, id);
            let frames = b.user_frames(&["main", name]);
            let stack = b.stack(&frames, &[], StackEnd::Whole);
            sample(thread, stack, PERIOD_NS, 1)
        })
        .collect();
    let mut facts = facts(Target::default());
    facts.host = "host\u{1b}[2J<b>".to_owned();
    facts.spec.events = vec![Event::Cpu];
    facts.events.truncate(1);
    let profiles = vec![Profile {
        event: Event::Cpu,
        samples,
    }];
    let ledger = Ledger {
        events: profiles.iter().map(whole_ledger).collect(),
    };
    Capture {
        dictionary: b.dictionary,
        profiles,
        accounts: Vec::new(),
        devices: Vec::new(),
        facts,
        ledger,
    }
}
