//! Merging and encoding, for captures of every shape.

use std::collections::BTreeMap;

use profiler_proto::{
    Attribute, Capture, CaptureAssembler, CaptureSpec, DeviceStatistics, Dictionary, EndReason,
    Event, EventFacts, EventLedger, Facts, Frame, FrameKind, Histogram, Ledger, Line, LossReason,
    Mapping, OwnCost, Process, Profile, Sample, SkipReason, Stack, StackEnd, Target, Thread,
    ThreadAccount, ThreadId, UnwindFacts, UnwindMethod, chunks, decode_frame, encode_frame,
    read_capture, write_capture,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// What a sample is made of; few values each, so that captures have much in common.
#[derive(Clone, Debug)]
struct Ingredients {
    event: usize,
    time_ns: u64,
    thread: u32,
    stack: Vec<u8>,
    attribute: u8,
    weight: u64,
}

fn ingredients() -> impl Strategy<Value = Ingredients> {
    (
        0..3_usize,
        prop_oneof![0..4_u64, any::<u64>()],
        0..4_u32,
        vec(0..4_u8, 0..4),
        0..6_u8,
        any::<u64>(),
    )
        .prop_map(
            |(event, time_ns, thread, stack, attribute, weight)| Ingredients {
                event,
                time_ns,
                thread,
                stack,
                attribute,
                weight,
            },
        )
}

fn text(number: u8) -> String {
    ["", "a", "b", "abc", "ä", "a b"][usize::from(number) % 6].to_owned()
}

fn thread(dictionary: &mut Dictionary, number: u32) -> ThreadId {
    if number == 0 {
        return ThreadId::NONE;
    }
    let comm = dictionary.intern_string(&text(number as u8));
    let process = dictionary.intern_process(Process {
        pid: number / 2,
        comm,
        ..Process::default()
    });
    dictionary.intern_thread(Thread {
        process,
        tid: number,
        ..Thread::default()
    })
}

fn frame(dictionary: &mut Dictionary, number: u8) -> Frame {
    let path = dictionary.intern_string(&text(number));
    let mapping = dictionary.intern_mapping(Mapping {
        path,
        build_id: vec![number; 2],
    });
    let line = Line {
        function: dictionary.intern_string(&text(number / 2)),
        file: path,
        line: number.into(),
    };
    Frame {
        kind: FrameKind::from_wire(i32::from(number)),
        mapping: [mapping, Default::default()][usize::from(number) % 2],
        address: number.into(),
        lines: vec![line; usize::from(number) % 3],
    }
}

fn sample(dictionary: &mut Dictionary, from: &Ingredients) -> Sample {
    let frames = from.stack.iter().map(|&number| {
        let frame = frame(dictionary, number);
        dictionary.intern_frame(frame)
    });
    let frames: Vec<_> = frames.collect();
    let stack = dictionary.intern_stack(Stack {
        user: frames.clone(),
        user_end: StackEnd::Cut,
        user_method: UnwindMethod::from_wire(from.attribute.into()),
        kernel: frames,
        kernel_end: StackEnd::Unknown,
    });
    let string = dictionary.intern_string(&text(from.attribute));
    let all = [
        Attribute::WaitClass(string),
        Attribute::WaitExtent(string),
        Attribute::Device(string),
        Attribute::Operation(string),
        Attribute::IoBytes(from.weight),
        Attribute::QueueNs(from.time_ns),
    ];
    Sample {
        time_ns: from.time_ns,
        thread: thread(dictionary, from.thread),
        stack,
        attributes: dictionary.intern_attributes(all[usize::from(from.attribute)..].to_vec()),
        weight: from.weight,
        count: from.weight / 2,
    }
}

/// Counts small enough that no sum of a few of them reaches the end of its type.
fn ledger() -> impl Strategy<Value = Ledger> {
    let event = (0..3_usize, 0..1000_u64, -1000..1000_i64).prop_map(|(event, count, skipped)| {
        let mut ledger = EventLedger::new(Event::ALL[event]);
        ledger.observed = count;
        ledger.counted = count / 2;
        ledger.losses = BTreeMap::from([(LossReason::SampleBudget, count)]);
        ledger.skipped = BTreeMap::from([(SkipReason::Unknown, skipped)]);
        ledger.user_stacks = BTreeMap::from([(StackEnd::Whole, count), (StackEnd::Unknown, 1)]);
        ledger.user_methods = BTreeMap::from([(UnwindMethod::Copy, count)]);
        ledger
    });
    vec(event, 0..4).prop_map(|events| {
        let mut ledger = Ledger::default();
        events.iter().for_each(|event| ledger.add(event));
        ledger
    })
}

fn spec(duration: &str) -> CaptureSpec {
    CaptureSpec::new(
        Event::ALL.to_vec(),
        Target::default(),
        duration.parse().unwrap(),
        Default::default(),
    )
    .unwrap()
}

fn facts() -> impl Strategy<Value = Facts> {
    (
        0..5_u8,
        0..6_u8,
        any::<[u32; 2]>(),
        any::<bool>(),
        -9.0..9.0,
    )
        .prop_map(|(host, other, numbers, flag, parameter)| Facts {
            host: text(host),
            kernel: text(other),
            architecture: text(other),
            agent_version: text(host),
            online_cpus: numbers[0],
            start_ns: numbers[0].into(),
            end_ns: numbers[1].into(),
            spec: spec(if flag { "1s" } else { "2s" }),
            events: vec![EventFacts {
                event: Event::ALL[usize::from(other) % 3],
                available: flag,
                mechanism: text(host),
                reason: text(other),
                parameters: BTreeMap::from([
                    ("x_min".to_owned(), parameter),
                    (text(other), parameter),
                ]),
            }],
            own_cost: OwnCost {
                agent_cpu_ns: numbers[0].into(),
                agent_rss_bytes: numbers[1].into(),
                bpf_map_bytes: numbers[0].into(),
                bpf_run_ns: numbers[1].into(),
                bpf_runs: numbers[0].into(),
            },
            end_reason: EndReason::from_wire(other.into()),
            warnings: vec![text(other), text(host)],
            memory_bytes: numbers[1].into(),
            command: None,
            unwind: UnwindFacts {
                tables_built: numbers[0].into(),
                tables_refused: BTreeMap::from([(text(other), numbers[1].into())]),
                table_bytes: numbers[1].into(),
                build_cpu_ns: numbers[0].into(),
                processes_without_table: numbers[1].into(),
                copies_taken: numbers[0].into(),
                copies_lost: numbers[1].into(),
            },
        })
}

fn capture() -> impl Strategy<Value = Capture> {
    let numbers = vec((0..4_u32, any::<u64>()), 0..4);
    (vec(ingredients(), 0..12), numbers, facts(), ledger()).prop_map(
        |(samples, numbers, facts, ledger)| {
            let mut dictionary = Dictionary::new();
            dictionary.intern_string("used by nothing");
            let mut profiles = BTreeMap::<_, Vec<_>>::new();
            for from in &samples {
                let samples = profiles.entry(Event::ALL[from.event]).or_default();
                samples.push(sample(&mut dictionary, from));
            }
            let accounts = numbers.iter().map(|&(number, ns)| ThreadAccount {
                thread: thread(&mut dictionary, number),
                on_cpu_ns: ns,
                blocked_count: number.into(),
                ..ThreadAccount::default()
            });
            let accounts = accounts.collect();
            let devices = numbers.iter().map(|&(number, ns)| DeviceStatistics {
                device: dictionary.intern_string(&text(number as u8)),
                queue_ns: ns,
                queue_histogram: Histogram {
                    buckets: vec![ns; number as usize],
                },
                ..DeviceStatistics::default()
            });
            let devices = devices.collect();
            let profiles = profiles.into_iter();
            Capture {
                dictionary,
                profiles: profiles
                    .map(|(event, samples)| Profile { event, samples })
                    .collect(),
                accounts,
                devices,
                facts,
                ledger,
            }
        },
    )
}

fn merge<const N: usize>(captures: [&Capture; N]) -> Capture {
    Capture::merge(captures.map(Clone::clone)).unwrap()
}

fn canonical(capture: &Capture) -> Capture {
    let mut capture = capture.clone();
    capture.canonicalize();
    capture
}

proptest! {
    #[test]
    fn merge_does_not_depend_on_order(a in capture(), b in capture()) {
        prop_assert_eq!(merge([&a, &b]), merge([&b, &a]));
    }

    #[test]
    fn merge_does_not_depend_on_grouping(a in capture(), b in capture(), c in capture()) {
        let all = merge([&a, &b, &c]);
        prop_assert_eq!(&merge([&merge([&a, &b]), &c]), &all);
        prop_assert_eq!(&merge([&a, &merge([&b, &c])]), &all);
        prop_assert_eq!(&merge([&b, &merge([&c, &a])]), &all);
    }

    #[test]
    fn merge_keeps_every_sample(a in capture(), b in capture()) {
        let merged = merge([&a, &b]);
        for event in Event::ALL {
            let count = |capture: &Capture| {
                capture.profile(event).map_or(0, |profile| profile.samples.len())
            };
            prop_assert_eq!(count(&merged), count(&a) + count(&b));
        }
    }

    #[test]
    fn canonical_form_is_stable(a in capture()) {
        let once = canonical(&a);
        prop_assert_eq!(&canonical(&once), &once);
        prop_assert_eq!(&merge([&a]), &once);
    }

    #[test]
    fn chunks_hold_everything(a in capture()) {
        let mut assembler = CaptureAssembler::new();
        for chunk in chunks(&a) {
            let frame = encode_frame(&chunk).unwrap();
            let decoded = decode_frame(&frame).unwrap();
            prop_assert_eq!(&decoded, &chunk);
            assembler.push(decoded).unwrap();
        }
        prop_assert_eq!(canonical(&assembler.finish().unwrap()), canonical(&a));
    }

    #[test]
    fn files_hold_everything(a in capture()) {
        let mut bytes = Vec::new();
        write_capture(&a, &mut bytes).unwrap();
        prop_assert_eq!(canonical(&read_capture(bytes.as_slice()).unwrap()), canonical(&a));
    }

    #[test]
    fn cut_or_damaged_files_are_errors(a in capture(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = Vec::new();
        write_capture(&a, &mut bytes).unwrap();
        let at = at.index(bytes.len());
        prop_assert!(read_capture(&bytes[..at]).is_err());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(read_capture(bytes.as_slice()).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(read_capture(bytes.as_slice()).is_err());
        prop_assert!(decode_frame(&bytes).is_err());
    }

    #[test]
    fn stacks_keep_their_identity(a in capture(), b in capture()) {
        let hashes = |capture: &Capture| {
            let samples = capture.profiles.iter().flat_map(|profile| &profile.samples);
            let mut hashes: Vec<_> = samples
                .map(|sample| capture.dictionary.stack_hash(sample.stack))
                .collect();
            hashes.sort_unstable();
            hashes
        };
        let mut both = [hashes(&a), hashes(&b)].concat();
        both.sort_unstable();
        prop_assert_eq!(hashes(&merge([&a, &b])), both);
    }

    #[test]
    fn filter_splits_without_loss(a in capture()) {
        let odd = |sample: &Sample| sample.weight % 2 == 1;
        let odds = a.filter(|_, _, sample| odd(sample));
        let evens = a.filter(|_, _, sample| !odd(sample));
        let samples = |captures: &[&Capture]| -> usize {
            let profiles = captures.iter().flat_map(|capture| &capture.profiles);
            profiles.map(|profile| profile.samples.len()).sum()
        };
        prop_assert_eq!(samples(&[&odds, &evens]), samples(&[&a]));
        prop_assert!(odds.profiles.iter().flat_map(|p| &p.samples).all(odd));
        prop_assert_eq!(a.filter(|_, _, _| true), canonical(&a));
        prop_assert_eq!(a.filter(|_, _, _| false).accounts, []);
    }
}
