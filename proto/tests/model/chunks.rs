//! Chunks that no agent of this version sends.

use profiler_proto::pb::{self, attribute::Value};
use profiler_proto::{
    Capture, CaptureAssembler, CommandResult, EndReason, Event, FrameKind, LossReason, ModelError,
    SkipReason, StackEnd, UnwindMethod, client_chunk,
};

use super::common::{self, chunk};

fn assemble(chunks: impl IntoIterator<Item = pb::Chunk>) -> Result<Capture, ModelError> {
    let mut assembler = CaptureAssembler::new();
    for chunk in chunks {
        assembler.push(chunk)?;
    }
    assembler.finish()
}

#[test]
fn unknown_numbers_do_not_lose_samples() {
    let mut chunk = chunk();
    let dictionary = chunk.dictionary.as_mut().unwrap();
    dictionary.frames[0].kind = 99;
    dictionary.stacks[0].user_end = 99;
    dictionary.stacks[0].user_method = 99;
    dictionary.attribute_sets[0].attributes[0].key = 99;
    chunk.facts.as_mut().unwrap().end_reason = 99;
    let cpu = &mut chunk.ledger.as_mut().unwrap().events[0];
    cpu.losses.iter_mut().for_each(|loss| loss.reason = 99);
    cpu.skipped.iter_mut().for_each(|skip| skip.reason = 99);
    cpu.user_methods.iter_mut().for_each(|one| one.method = 99);
    let capture = assemble([chunk]).unwrap();

    let expected = common::capture();
    for event in Event::ALL {
        let samples = |capture: &Capture| capture.profile(event).unwrap().samples.len();
        assert_eq!(samples(&capture), samples(&expected));
    }
    let stack = capture
        .dictionary
        .stack(capture.profiles[0].samples[0].stack);
    assert_eq!(stack.user_end, StackEnd::Unknown);
    assert_eq!(stack.user_method, UnwindMethod::Unknown);
    assert_eq!(
        capture.dictionary.frame(stack.user[0]).kind,
        FrameKind::Unknown
    );
    let wait = capture.profile(Event::OffCpu).unwrap().samples[0];
    let attributes = capture.dictionary.attributes(wait.attributes);
    assert_eq!(attributes.as_slice().len(), 1);
    assert_eq!(capture.facts.end_reason, EndReason::Unknown);
    let cpu = capture.ledger.event(Event::Cpu).unwrap();
    assert_eq!(cpu.losses[&LossReason::Unknown], 7);
    assert_eq!(cpu.skipped[&SkipReason::Unknown], 10);
    assert_eq!(cpu.user_methods[&UnwindMethod::Unknown], 2);
    assert_eq!(cpu.verify(), Ok(()));
}

#[test]
fn unknown_events_are_left_out_and_named() {
    let mut chunk = chunk();
    chunk.batches[1].event = 42;
    let facts = chunk.facts.as_mut().unwrap();
    facts.events[1].event = 42;
    facts.spec.as_mut().unwrap().events[1] = 42;
    chunk.ledger.as_mut().unwrap().events[1].event = 42;
    let capture = assemble([chunk.clone()]).unwrap();
    assert_eq!(capture.profiles.len(), 2);
    assert_eq!(capture.facts.spec.events, [Event::Cpu, Event::Io]);
    assert_eq!(capture.facts.events.len(), 2);
    assert_eq!(capture.ledger.events.len(), 1);
    assert_eq!(
        capture.facts.warnings[1..],
        [
            "1 of the events asked for are not known to this version and left out",
            "1 samples of events that this version does not know were left out",
        ]
    );

    let spec = chunk.facts.as_mut().unwrap().spec.as_mut().unwrap();
    spec.events = vec![42];
    let error = assemble([chunk]).unwrap_err().to_string();
    assert!(error.starts_with("event number 42 is not known"), "{error}");
}

#[test]
fn every_index_is_checked() {
    type Change = fn(&mut pb::Chunk, &mut pb::Dictionary);
    let cases: [(Change, &str); 22] = [
        (|_, d| d.mappings[0].path = 99, "a mapping"),
        (|_, d| d.frames[0].mapping = 99, "a frame"),
        (|_, d| d.frames[0].lines[0].function = 99, "a frame"),
        (|_, d| d.frames[0].lines[0].file = 99, "a frame"),
        (|_, d| d.stacks[0].user_frames[0] = 99, "a stack"),
        (|_, d| d.stacks[1].kernel_frames[0] = 99, "a stack"),
        (
            |_, d| d.attribute_sets[0].attributes[0].value = Some(Value::String(99)),
            "an attribute",
        ),
        (|_, d| d.processes[0].comm = 99, "a process"),
        (|_, d| d.processes[0].executable = 99, "a process"),
        (|_, d| d.processes[0].cgroup = 99, "a process"),
        (|_, d| d.processes[0].container = 99, "a process"),
        (|_, d| d.processes[0].host = 99, "a process"),
        (|_, d| d.threads[0].process = 99, "a thread"),
        (|_, d| d.threads[0].comm = 99, "a thread"),
        (|c, _| c.batches[0].thread[0] = 99, "a sample"),
        (|c, _| c.batches[0].stack[0] = 99, "a sample"),
        (|c, _| c.batches[0].attributes[0] = 99, "a sample"),
        (|c, _| c.accounts[0].thread = 99, "a thread's account"),
        (|c, _| c.devices[0].host = 99, "a device's statistics"),
        (|c, _| c.devices[0].device = 99, "a device's statistics"),
        (|c, _| c.devices[0].operation = 99, "a device's statistics"),
        (|_, d| d.threads[0].comm = u32::MAX, "a thread"),
    ];
    for (change, user) in cases {
        let mut chunk = chunk();
        let mut dictionary = chunk.dictionary.take().unwrap();
        change(&mut chunk, &mut dictionary);
        chunk.dictionary = Some(dictionary);
        let error = assemble([chunk]).unwrap_err().to_string();
        let expected = format!("{user} refers to entry ");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn everything_else_is_checked_too() {
    type Change = fn(&mut pb::Chunk);
    let cases: [(Change, &str); 13] = [
        (
            |c| c.batches[0].time_delta_ns.truncate(1),
            "a batch of cpu samples has 1 times but 2 entries in `thread`",
        ),
        (|c| c.batches[0].thread.clear(), "0 entries in `thread`"),
        (|c| c.batches[1].stack.push(1), "2 entries in `stack`"),
        (
            |c| c.batches[2].attributes.clear(),
            "0 entries in `attributes`",
        ),
        (|c| c.batches[2].weight.clear(), "0 entries in `weight`"),
        (|c| c.batches[2].count.clear(), "0 entries in `count`"),
        (
            |c| {
                let set = &mut c.dictionary.as_mut().unwrap().attribute_sets[0];
                set.attributes[0].value = None;
            },
            "an attribute (wait class) has no value",
        ),
        (
            |c| {
                let set = &mut c.dictionary.as_mut().unwrap().attribute_sets[1];
                set.attributes[2].value = Some(Value::String(1));
            },
            "an attribute (I/O size) has no value, or one of the wrong type",
        ),
        (
            |c| c.devices[0].queue_histogram = vec![1; 65],
            "a histogram has 65 buckets",
        ),
        (
            |c| {
                let event = &mut c.facts.as_mut().unwrap().events[0];
                event.parameters.insert("x".into(), f64::NAN);
            },
            "parameter `x` is NaN",
        ),
        (
            |c| c.facts.as_mut().unwrap().events[1].event = 1,
            "the facts describe event cpu twice",
        ),
        (
            |c| c.facts.as_mut().unwrap().spec = None,
            "the spec did not come",
        ),
        (
            |c| c.facts.as_mut().unwrap().spec.as_mut().unwrap().duration_ns = 0,
            "duration `0ns` is out of range",
        ),
    ];
    for (change, expected) in cases {
        let mut chunk = chunk();
        change(&mut chunk);
        let error = assemble([chunk]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn facts_and_ledger_come_once() {
    let mut facts = chunk();
    facts.ledger = None;
    assert_eq!(
        assemble([facts.clone()]),
        Err(ModelError::Missing("the ledger"))
    );
    assert_eq!(assemble([]), Err(ModelError::Missing("the facts")));
    let again = pb::Chunk {
        facts: facts.facts.clone(),
        ..pb::Chunk::default()
    };
    assert_eq!(
        assemble([facts, again]),
        Err(ModelError::Twice("the facts"))
    );
    let ledger = pb::Chunk {
        ledger: chunk().ledger,
        ..pb::Chunk::default()
    };
    assert_eq!(
        assemble([chunk(), ledger]),
        Err(ModelError::Twice("the ledger"))
    );
}

#[test]
fn a_client_adds_what_it_alone_knows() {
    let mut agents = chunk();
    agents.facts.as_mut().unwrap().command = None;
    let command = CommandResult {
        argv: vec!["make".into()],
        exit_code: 130,
    };
    let clients = client_chunk(vec!["interrupted".into()], Some(&command));
    let capture = assemble([agents.clone(), clients.clone()]).unwrap();
    assert_eq!(capture.facts.command, Some(command));
    assert_eq!(
        capture.facts.warnings,
        ["kernel symbols are hidden", "interrupted"]
    );
    assert_eq!(
        assemble([agents, clients.clone(), clients]),
        Err(ModelError::Twice("the command"))
    );
}
