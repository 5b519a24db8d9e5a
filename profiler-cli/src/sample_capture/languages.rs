//! A capture with every kind of frame.

use std::collections::BTreeMap;

use profiler_proto::{
    Capture, Event, Frame, FrameId, FrameKind, Ledger, Line, Mapping, MappingId, Profile, Stack,
    StackEnd, Target, ThreadId, UnwindFacts, UnwindMethod,
};

use super::{Builder, PERIOD_NS, facts, sample, whole_ledger};

impl Builder {
    fn mapping(&mut self, path: &str) -> MappingId {
        let path = self.string(path);
        self.dictionary.intern_mapping(Mapping {
            path,
            build_id: Vec::new(),
        })
    }

    /// A function of a script.
    fn script(&mut self, function: &str, file: &str, line: u32) -> FrameId {
        let function = self.string(function);
        let file = self.string(file);
        let lines = vec![Line {
            function,
            file,
            line,
        }];
        self.dictionary.intern_frame(Frame {
            kind: FrameKind::Interpreted,
            lines,
            ..Frame::default()
        })
    }

    /// A sample of a stack of user frames, root first, that ended and was walked like this.
    fn walked(
        &mut self,
        thread: ThreadId,
        frames: &[FrameId],
        (end, method): (StackEnd, UnwindMethod),
        count: u64,
    ) -> profiler_proto::Sample {
        let stack = self.dictionary.intern_stack(Stack {
            user: frames.iter().rev().copied().collect(),
            user_end: end,
            user_method: method,
            kernel: Vec::new(),
            kernel_end: StackEnd::None,
        });
        sample(thread, stack, count * PERIOD_NS, count)
    }
}

/// Python with native code above and below it, functions inlined into one another, JIT code, the vDSO, code
/// without names, and stacks that are not whole.
pub(crate) fn languages() -> Capture {
    let mut b = Builder::new();
    let python = python(&mut b);
    let native = native(&mut b);
    let profile = Profile {
        event: Event::Cpu,
        samples: [python, native].concat(),
    };
    let waits = waits(&mut b);
    let mut facts = facts(Target::default());
    facts.spec.events = vec![Event::Cpu, Event::OffCpu];
    facts.events.truncate(2);
    facts.unwind = UnwindFacts {
        tables_built: 31,
        tables_refused: BTreeMap::from([("not an ELF file".to_owned(), 2)]),
        table_bytes: 9 << 20,
        build_cpu_ns: 410_000_000,
        processes_without_table: 1,
        copies_taken: 17,
        copies_lost: 3,
    };
    let profiles = vec![profile, waits];
    let mut ledger = Ledger {
        events: profiles.iter().map(whole_ledger).collect(),
    };
    for (ledger, profile) in ledger.events.iter_mut().zip(&profiles) {
        ledger.user_stacks.clear();
        for sample in &profile.samples {
            let stack = b.dictionary.stack(sample.stack);
            *ledger.user_stacks.entry(stack.user_end).or_default() += sample.count;
            *ledger.user_methods.entry(stack.user_method).or_default() += sample.count;
        }
    }
    Capture {
        dictionary: b.dictionary,
        profiles,
        accounts: Vec::new(),
        devices: Vec::new(),
        facts,
        ledger,
    }
}

fn python(b: &mut Builder) -> Vec<profiler_proto::Sample> {
    let server = b.thread("gunicorn", 4711, 4711);
    let libpython = b.mapping("/usr/lib/libpython3.11.so.1.0");
    let start = b.user("_start");
    let main = b.user("main");
    let eval = b.frame(libpython, 0x1_2340, &["_PyEval_EvalFrameDefault"]);
    let encode = b.frame(libpython, 0x9_8760, &["PyUnicode_READ", "ascii_escape"]);
    let module = b.script("<module>", "/srv/app.py", 90);
    let handle = b.script("handle", "/srv/app.py", 12);
    let again = b.script("handle", "/srv/app.py", 17);
    let dumps = b.script("dumps", "/usr/lib/python3.11/json/__init__.py", 231);
    let mixed = (StackEnd::Whole, UnwindMethod::Mixed);
    let whole = (StackEnd::Whole, UnwindMethod::Tables);
    let native = [start, main, eval, module, handle, dumps, eval, encode];
    vec![
        b.walked(server, &native, mixed, 400),
        b.walked(server, &native[..6], whole, 180),
        b.walked(server, &[start, main, eval, module, again], whole, 120),
    ]
}

fn native(b: &mut Builder) -> Vec<profiler_proto::Sample> {
    let app = b.thread("app", 100, 100);
    let vdso = b.mapping("[vdso]");
    let jit = b.mapping("[jit]");
    let start = b.user("_start");
    let main = b.user("main");
    let hash = b.frame(
        b.app,
        0x2000,
        &["core::hash::mix", "core::hash::write", "app::parse"],
    );
    let clock = b.frame(vdso, 0xa40, &["__vdso_clock_gettime"]);
    let nameless = b.frame(b.libc, 0x9_1234, &[]);
    let unmapped = b.frame(MappingId::NONE, 0x7f00_dead_b000, &[]);
    let compiled = b.frame(jit, 0x40, &["LazyCompile:~tick"]);
    let compiled_too = b.frame(jit, 0x1_0080, &[]);
    let whole = (StackEnd::Whole, UnwindMethod::Tables);
    let mixed = (StackEnd::Whole, UnwindMethod::Mixed);
    let copied = (StackEnd::Whole, UnwindMethod::Copy);
    vec![
        b.walked(app, &[start, main, hash], whole, 130),
        b.walked(app, &[start, main, hash, clock], copied, 40),
        b.walked(app, &[start, main, compiled, compiled_too, hash], mixed, 60),
        b.walked(
            app,
            &[nameless, hash],
            (StackEnd::NoRule, UnwindMethod::Tables),
            30,
        ),
        b.walked(
            app,
            &[unmapped],
            (StackEnd::NoMapping, UnwindMethod::Mixed),
            20,
        ),
        b.walked(app, &[main; 9], (StackEnd::Cut, UnwindMethod::Tables), 20),
    ]
}

fn waits(b: &mut Builder) -> Profile {
    let server = b.thread("gunicorn", 4711, 4711);
    let start = b.user("_start");
    let inlined = b.frame(b.app, 0x3000, &["take", "Queue::pop"]);
    let handle = b.script("handle", "/srv/app.py", 12);
    let whole = (StackEnd::Whole, UnwindMethod::Tables);
    let frames = [start, handle, inlined];
    let mut samples = Vec::new();
    for (class, count) in [("blocked", 60), ("runnable", 40)] {
        let mut wait = b.walked(server, &frames, whole, count);
        wait.attributes = b.wait(class, "");
        samples.push(wait);
    }
    Profile {
        event: Event::OffCpu,
        samples,
    }
}
