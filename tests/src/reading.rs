//! Questions to a capture.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use profiler_proto::{
    AttributeKey, Capture, Event, EventLedger, FrameId, Sample, StackEnd, ThreadAccount,
    UnwindMethod, read_capture,
};

use crate::Window;
use crate::chain::Frame;
use crate::score::Observed;

/// A capture, and its window on the workloads' clock.
#[derive(Debug)]
pub struct Reading {
    /// What was captured.
    pub capture: Capture,
    /// When.
    pub window: Window,
}

/// One sample with its names.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Of its process.
    pub pid: u32,
    /// Start of the process, nanoseconds since boot.
    pub process_start_ns: u64,
    /// Of its thread.
    pub tid: u32,
    /// Command name of the thread.
    pub comm: String,
    /// User functions, root first.
    pub user: Vec<String>,
    /// How the walk of the user part ended.
    pub user_end: StackEnd,
    /// Kernel functions, root first.
    pub kernel: Vec<String>,
    /// What it stands for, nanoseconds.
    pub weight: u64,
    /// Measurements in it.
    pub count: u64,
    /// `blocked` or `runnable`, empty where not said.
    pub wait_class: String,
    /// `unfinished` or `whole-window`, empty where not said.
    pub wait_extent: String,
    /// Block device, empty where not said.
    pub device: String,
    /// `read`, `write`, ..., empty where not said.
    pub operation: String,
}

/// The user part of a sample, for the scorer.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Its frames.
    pub observed: Observed,
    /// How its walk ended.
    pub end: StackEnd,
    /// How it was walked.
    pub method: UnwindMethod,
}

impl Stack {
    /// Whether the user part holds these functions in this order, from root to leaf.
    pub fn holds(&self, chain: &[&str]) -> bool {
        let mut functions = self.user.iter();
        chain
            .iter()
            .all(|wanted| functions.any(|function| function == wanted))
    }

    /// Whether the user part holds this function.
    pub fn has(&self, function: &str) -> bool {
        self.holds(&[function])
    }
}

impl Reading {
    /// Reads a capture that was made just now.
    ///
    /// # Errors
    /// Fails where the file is not there or not a whole capture.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("no capture {}", path.display()))?;
        let capture = read_capture(BufReader::new(file))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let window = Window::of(&capture);
        Ok(Self { capture, window })
    }

    /// All samples of an event.
    ///
    /// # Errors
    /// Fails where there is no profile of it; says why, if the capture does.
    pub fn stacks(&self, event: Event) -> Result<Vec<Stack>> {
        let profile = self.capture.profile(event).with_context(|| {
            let facts = self.capture.facts.event(event);
            format!("no {event} in the capture: {facts:?}")
        })?;
        Ok(profile.samples.iter().map(|one| self.name(one)).collect())
    }

    /// All samples of an event and a process.
    ///
    /// # Errors
    /// As [`Self::stacks`].
    pub fn stacks_of(&self, event: Event, pid: u32) -> Result<Vec<Stack>> {
        let mut stacks = self.stacks(event)?;
        stacks.retain(|stack| stack.pid == pid);
        Ok(stacks)
    }

    /// The user parts of all samples of the threads that are meant, but for those that have none.
    ///
    /// # Errors
    /// As [`Self::stacks`].
    pub fn walked(&self, event: Event, meant: impl Fn(&Stack) -> bool) -> Result<Vec<Walked>> {
        let named = self.stacks(event)?;
        let profile = self.capture.profile(event).context("no profile")?;
        let pairs = named.iter().zip(&profile.samples);
        let pairs = pairs.filter(|(stack, _)| meant(stack) && stack.user_end != StackEnd::None);
        Ok(pairs.map(|(_, sample)| self.walk(sample)).collect())
    }

    fn walk(&self, sample: &Sample) -> Walked {
        let dictionary = &self.capture.dictionary;
        let stack = dictionary.stack(sample.stack);
        let mut frames = Vec::new();
        for id in stack.user.iter().rev() {
            let frame = dictionary.frame(*id);
            let mapping = dictionary.mapping(frame.mapping);
            let module = mapping.map_or("", |mapping| dictionary.string(mapping.path));
            let functions = frame.lines.iter().rev();
            let functions = functions.map(|line| dictionary.string(line.function));
            frames.extend(functions.map(|function| Frame::new(function, module)));
            if frame.lines.is_empty() {
                frames.push(Frame::new("", module));
            }
        }
        Walked {
            observed: Observed {
                frames,
                claims_whole: stack.user_end == StackEnd::Whole,
                count: sample.count,
                weight: sample.weight,
            },
            end: stack.user_end,
            method: stack.user_method,
        }
    }

    /// The account of a thread.
    ///
    /// # Errors
    /// Fails where there is not exactly one.
    pub fn account(&self, tid: u32) -> Result<ThreadAccount> {
        let accounts = self.capture.accounts.iter();
        let found: Vec<_> = accounts
            .filter(|one| self.capture.dictionary.thread(one.thread).tid == tid)
            .collect();
        ensure!(found.len() == 1, "{} accounts of thread {tid}", found.len());
        Ok(*found[0])
    }

    /// The ledger of an event, which adds up and agrees with the samples.
    ///
    /// # Errors
    /// Says what does not add up.
    pub fn ledger(&self, event: Event) -> Result<&EventLedger> {
        self.capture.ledger.verify()?;
        let ledger = self.capture.ledger.event(event);
        let ledger = ledger.with_context(|| format!("no ledger of {event}"))?;
        let ends = |ends: &std::collections::BTreeMap<StackEnd, u64>| ends.values().sum::<u64>();
        let (user, kernel) = (ends(&ledger.user_stacks), ends(&ledger.kernel_stacks));
        ensure!(
            user == ledger.delivered && kernel == ledger.delivered,
            "{event}: {} delivered, but the ends of {user} user and {kernel} kernel stacks are told",
            ledger.delivered
        );
        ensure!(
            ledger.unnamed_user_frames <= ledger.user_frames,
            "{event}: more frames without a name than frames"
        );
        Ok(ledger)
    }

    fn name(&self, sample: &Sample) -> Stack {
        let dictionary = &self.capture.dictionary;
        let thread = dictionary.thread(sample.thread);
        let process = dictionary.process(thread.process);
        let stack = dictionary.stack(sample.stack);
        let attributes = dictionary.attributes(sample.attributes);
        let attribute = |key| {
            let id = attributes.string(key);
            id.map_or_else(String::new, |id| dictionary.string(id).to_owned())
        };
        Stack {
            pid: process.pid,
            process_start_ns: process.start_ns,
            tid: thread.tid,
            comm: dictionary.string(thread.comm).to_owned(),
            user: self.functions(&stack.user),
            user_end: stack.user_end,
            kernel: self.functions(&stack.kernel),
            weight: sample.weight,
            count: sample.count,
            wait_class: attribute(AttributeKey::WaitClass),
            wait_extent: attribute(AttributeKey::WaitExtent),
            device: attribute(AttributeKey::Device),
            operation: attribute(AttributeKey::Operation),
        }
    }

    /// Root first; a frame without a name is `?`.
    fn functions(&self, frames: &[FrameId]) -> Vec<String> {
        let dictionary = &self.capture.dictionary;
        let mut names = Vec::new();
        for id in frames.iter().rev() {
            let lines = &dictionary.frame(*id).lines;
            names.extend(
                lines
                    .iter()
                    .rev()
                    .map(|line| dictionary.string(line.function).to_owned()),
            );
            if lines.is_empty() {
                names.push("?".to_owned());
            }
        }
        names
    }
}

/// Folded stacks: frames and weight of every line.
///
/// # Errors
/// Fails on a line that is none.
pub fn folded_lines(text: &str) -> Result<Vec<(Vec<String>, u64)>> {
    text.lines()
        .map(|line| {
            let (stack, weight) = line
                .rsplit_once(' ')
                .with_context(|| format!("no weight in {line:?}"))?;
            let weight = weight
                .parse()
                .with_context(|| format!("no weight in {line:?}"))?;
            let frames: Vec<_> = stack.split(';').map(str::to_owned).collect();
            ensure!(
                frames.iter().all(|frame| !frame.is_empty()),
                "an empty frame in {line:?}"
            );
            Ok((frames, weight))
        })
        .collect()
}
