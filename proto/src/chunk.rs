//! From a capture to chunks of about 1 MiB.

use crate::capture::Capture;
use crate::facts::CommandResult;
use crate::pb;
use crate::profile::Sample;
use crate::wire_writer::WireWriter;

/// Size at which a chunk is closed, before compression: small beside the 4 MiB that gRPC accepts
/// by default, large enough to compress well.
const TARGET_BYTES: usize = 1 << 20;
/// About what a sample takes in six columns of variable-length numbers.
const SAMPLE_BYTES: usize = 20;

/// Splits a capture into chunks of about 1 MiB. Each holds the dictionary entries that it is the
/// first to use; facts and ledger are in the last.
pub fn chunks(capture: &Capture) -> impl Iterator<Item = pb::Chunk> {
    Chunks {
        capture,
        writer: WireWriter::new(&capture.dictionary),
        profile: 0,
        sample: 0,
        account: 0,
        device: 0,
        finished: false,
    }
}

/// What a client alone knows, as a chunk to be appended to those of the agent.
pub fn client_chunk(warnings: Vec<String>, command: Option<&CommandResult>) -> pb::Chunk {
    pb::Chunk {
        facts: Some(pb::Facts {
            warnings,
            command: command.map(Into::into),
            ..pb::Facts::default()
        }),
        ..pb::Chunk::default()
    }
}

struct Chunks<'a> {
    capture: &'a Capture,
    writer: WireWriter<'a>,
    profile: usize,
    sample: usize,
    account: usize,
    device: usize,
    finished: bool,
}

impl Iterator for Chunks<'_> {
    type Item = pb::Chunk;

    fn next(&mut self) -> Option<pb::Chunk> {
        if self.finished {
            return None;
        }
        let mut chunk = pb::Chunk::default();
        let complete = self.fill(&mut chunk);
        if complete {
            chunk.facts = Some((&self.capture.facts).into());
            chunk.ledger = Some((&self.capture.ledger).into());
            self.finished = true;
        }
        chunk.dictionary = self.writer.take();
        Some(chunk)
    }
}

impl Chunks<'_> {
    /// Adds what fits; true when nothing is left.
    fn fill(&mut self, chunk: &mut pb::Chunk) -> bool {
        let capture = self.capture;
        while let Some(profile) = capture.profiles.get(self.profile) {
            if self.writer.bytes >= TARGET_BYTES {
                return false;
            }
            let mut batch = pb::SampleBatch {
                event: profile.event.to_wire(),
                ..pb::SampleBatch::default()
            };
            self.sample += self.batch(&mut batch, &profile.samples[self.sample..]);
            chunk.batches.push(batch);
            if self.sample == profile.samples.len() {
                self.profile += 1;
                self.sample = 0;
            }
        }
        while let Some(account) = capture.accounts.get(self.account) {
            if self.writer.bytes >= TARGET_BYTES {
                return false;
            }
            chunk.accounts.push(self.writer.account(account));
            self.account += 1;
        }
        while let Some(device) = capture.devices.get(self.device) {
            if self.writer.bytes >= TARGET_BYTES {
                return false;
            }
            chunk.devices.push(self.writer.device(device));
            self.device += 1;
        }
        true
    }

    /// Adds samples until the chunk is full; returns how many.
    fn batch(&mut self, batch: &mut pb::SampleBatch, samples: &[Sample]) -> usize {
        let mut before_ns = 0;
        let mut taken = 0;
        for sample in samples {
            if self.writer.bytes >= TARGET_BYTES {
                break;
            }
            let delta = sample.time_ns.wrapping_sub(before_ns).cast_signed();
            before_ns = sample.time_ns;
            batch.time_delta_ns.push(delta);
            batch.thread.push(self.writer.thread(sample.thread));
            batch.stack.push(self.writer.stack(sample.stack));
            batch
                .attributes
                .push(self.writer.attributes(sample.attributes));
            batch.weight.push(sample.weight);
            batch.count.push(sample.count);
            self.writer.bytes += SAMPLE_BYTES;
            taken += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::assembler::CaptureAssembler;
    use crate::capture::ThreadAccount;
    use crate::capture_spec::{CaptureSpec, Frequency};
    use crate::dictionary::Dictionary;
    use crate::duration::CaptureDuration;
    use crate::event::Event;
    use crate::facts::{EndReason, Facts, OwnCost, UnwindFacts};
    use crate::ledger::Ledger;
    use crate::profile::{Profile, Stack, StackEnd, Thread, ThreadId};
    use crate::target::Target;

    fn facts() -> Facts {
        let spec = CaptureSpec::new(
            vec![Event::Cpu, Event::Io],
            Target::default(),
            CaptureDuration::DEFAULT,
            Frequency::DEFAULT,
        );
        Facts {
            host: String::new(),
            kernel: String::new(),
            architecture: String::new(),
            agent_version: String::new(),
            online_cpus: 0,
            start_ns: 0,
            end_ns: 0,
            spec: spec.unwrap(),
            events: Vec::new(),
            own_cost: OwnCost::default(),
            end_reason: EndReason::Duration,
            warnings: Vec::new(),
            memory_bytes: 0,
            command: None,
            unwind: UnwindFacts::default(),
        }
    }

    /// A capture of many samples on many threads, in the order in which chunks send them.
    fn large() -> Capture {
        let mut dictionary = Dictionary::new();
        let mut samples = Vec::new();
        let mut accounts = Vec::new();
        for number in 0..150_000_u32 {
            let comm = dictionary.intern_string(&format!("thread {}", number / 10));
            let thread = dictionary.intern_thread(Thread {
                tid: number / 10,
                comm,
                ..Thread::default()
            });
            samples.push(Sample {
                time_ns: u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                thread,
                weight: u64::from(number),
                count: 1,
                ..Sample::default()
            });
            if number % 3 == 0 {
                accounts.push(ThreadAccount {
                    thread,
                    on_cpu_ns: u64::MAX,
                    ..ThreadAccount::default()
                });
            }
        }
        let profile = |event, samples| Profile { event, samples };
        Capture {
            dictionary,
            profiles: vec![profile(Event::Cpu, samples), profile(Event::Io, Vec::new())],
            accounts,
            devices: Vec::new(),
            facts: facts(),
            ledger: Ledger::default(),
        }
    }

    #[test]
    fn large_captures_are_split_and_put_together_again() {
        let capture = large();
        let mut assembler = CaptureAssembler::new();
        let all: Vec<_> = chunks(&capture).collect();
        let last = all.len() - 1;
        assert!(last > 3);
        for (at, chunk) in all.into_iter().enumerate() {
            let bytes = chunk.encoded_len();
            assert!(bytes < 2 * TARGET_BYTES, "{at}: {bytes}");
            assert!(at == last || bytes > TARGET_BYTES / 4, "{at}: {bytes}");
            assert_eq!(chunk.facts.is_some(), at == last);
            assert_eq!(chunk.ledger.is_some(), at == last);
            assembler.push(chunk).unwrap();
        }
        assert_eq!(assembler.finish().unwrap(), capture);
    }

    #[test]
    fn ids_of_another_dictionary_become_none() {
        let mut capture = large();
        let mut other = Dictionary::new();
        other.intern_stack(Stack::default());
        let foreign = other.intern_stack(Stack {
            user_end: StackEnd::Whole,
            ..Stack::default()
        });
        capture.profiles[0].samples.truncate(1);
        capture.profiles[0].samples[0].stack = foreign;
        capture.accounts.clear();
        let mut assembler = CaptureAssembler::new();
        chunks(&capture).for_each(|chunk| assembler.push(chunk).unwrap());
        let read = assembler.finish().unwrap();
        assert!(read.profiles[0].samples[0].stack.is_none());
        assert_ne!(read.profiles[0].samples[0].thread, ThreadId::NONE);
        // A profile without samples is still one.
        assert_eq!(read.profiles.len(), 2);
    }
}
