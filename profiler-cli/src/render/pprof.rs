//! pprof's format: a gzipped `perftools.profiles.Profile`.
//!
//! Two values per sample, as pprof's own profilers have them: how many, and how many nanoseconds. Frames keep
//! their module, build-id and offset in the module's file; inlined functions are lines of one location,
//! innermost first; process, thread and attributes become labels.
//! Field numbers: <https://github.com/google/pprof/blob/main/proto/profile.proto>.

#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use profiler_proto::{
    AttributeKey, AttributeSet, AttributesId, Capture, Event, Frame, FrameId, FrameKind, MappingId,
    StackId, ThreadId, UnwindMethod,
};
use prost::Message;

use super::{Format, summary, wholeness};
use crate::naming::{address_name, gap, module_name};
use crate::text;
use crate::view::{Total, View};

/// `*.pb.gz`.
pub(crate) static FORMAT: Format = Format {
    ending: "pb.gz",
    write,
};

fn write(view: &View<'_>, out: &mut dyn Write) -> io::Result<()> {
    let bytes = Builder::new(view.capture).profile(view).encode_to_vec();
    // No file name and no time in the header: the same capture gives the same bytes.
    let mut gzip = GzBuilder::new().write(out, Compression::default());
    gzip.write_all(&bytes)?;
    gzip.finish()?.flush()
}

/// Fills the tables of a profile, each entry once. Ids in pprof start at 1.
struct Builder<'a> {
    capture: &'a Capture,
    profile: wire::Profile,
    strings: HashMap<String, i64>,
    mappings: HashMap<(MappingId, FrameKind), u64>,
    locations: HashMap<FrameId, u64>,
    gaps: HashMap<(&'static str, bool), u64>,
    functions: HashMap<(i64, i64), u64>,
}

impl<'a> Builder<'a> {
    fn new(capture: &'a Capture) -> Self {
        let mut builder = Self {
            capture,
            profile: wire::Profile::default(),
            strings: HashMap::new(),
            mappings: HashMap::new(),
            locations: HashMap::new(),
            gaps: HashMap::new(),
            functions: HashMap::new(),
        };
        // The format wants the empty string first.
        builder.string("");
        builder
    }

    fn profile(mut self, view: &View<'_>) -> wire::Profile {
        let facts = &view.capture.facts;
        let (counted, measured) = match view.event {
            Event::Cpu => ("samples", "cpu"),
            Event::OffCpu => ("waits", "offcpu"),
            Event::Io => ("requests", "io"),
        };
        let nanoseconds = self.value_type(measured, "nanoseconds");
        self.profile.sample_type = vec![self.value_type(counted, "count"), nanoseconds];
        self.profile.default_sample_type = self.string(measured);
        self.profile.period_type = Some(nanoseconds);
        self.profile.period = match view.event {
            Event::Cpu => signed(facts.spec.frequency.period_ns()),
            Event::OffCpu | Event::Io => 1,
        };
        self.profile.time_nanos = signed(facts.start_ns);
        self.profile.duration_nanos = signed(facts.end_ns.saturating_sub(facts.start_ns));
        self.comments(view);
        self.samples(view);
        self.profile
    }

    fn comments(&mut self, view: &View<'_>) {
        let facts = &view.capture.facts;
        let comments = [
            Some(text::clean(&format!(
                "host {}, Linux {}",
                facts.host, facts.kernel
            ))),
            Some(format!("target: {}", summary::subject(facts))),
            Some(summary::losses(view.capture, view.event)),
            wholeness::sentence(view),
            view.left_out.sentence(),
        ];
        for comment in comments.into_iter().flatten() {
            let id = self.string(&comment);
            self.profile.comment.push(id);
        }
    }

    fn samples(&mut self, view: &View<'_>) {
        let mut sums: HashMap<(ThreadId, StackId, AttributesId), Total> = HashMap::new();
        for sample in view.samples() {
            let key = (sample.thread, sample.stack, sample.attributes);
            sums.entry(key).or_default().add(sample);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|(key, _)| *key);
        for ((thread, stack, attributes), total) in sums {
            let sample = wire::Sample {
                location_id: self.stack(stack),
                value: vec![signed(total.count), signed(total.weight_ns)],
                label: self.labels(thread, attributes),
            };
            self.profile.sample.push(sample);
        }
    }

    /// Leaf first, as both the model and pprof have it.
    fn stack(&mut self, id: StackId) -> Vec<u64> {
        let stack = self.capture.dictionary.stack(id);
        let mut ids = Vec::with_capacity(stack.kernel.len() + stack.user.len() + 1);
        let kernel_gap = gap(stack.kernel_end, UnwindMethod::Unknown);
        let user_gap = gap(stack.user_end, stack.user_method);
        for (frames, gap, kernel) in [
            (&stack.kernel, kernel_gap, true),
            (&stack.user, user_gap, false),
        ] {
            for frame in frames {
                ids.push(self.location(*frame));
            }
            ids.extend(gap.map(|name| self.gap(name, kernel)));
        }
        ids
    }

    fn location(&mut self, id: FrameId) -> u64 {
        if let Some(known) = self.locations.get(&id) {
            return *known;
        }
        let frame = self.capture.dictionary.frame(id);
        let mapping_id = self.mapping(frame);
        self.note_names(mapping_id, frame);
        let line = self.lines(frame);
        let location = self.push_location(mapping_id, frame.address, line);
        self.locations.insert(id, location);
        location
    }

    /// A location that stands for the missing part of a stack.
    fn gap(&mut self, name: &'static str, kernel: bool) -> u64 {
        if let Some(known) = self.gaps.get(&(name, kernel)) {
            return *known;
        }
        let line = vec![self.unnamed_line(name)];
        let location = self.push_location(0, 0, line);
        self.gaps.insert((name, kernel), location);
        location
    }

    fn push_location(&mut self, mapping_id: u64, address: u64, line: Vec<wire::Line>) -> u64 {
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(wire::Location {
            id,
            mapping_id,
            address,
            line,
        });
        id
    }

    fn lines(&mut self, frame: &Frame) -> Vec<wire::Line> {
        let dictionary = &self.capture.dictionary;
        let named: Vec<_> = frame
            .lines
            .iter()
            .filter(|line| !line.function.is_none())
            .collect();
        if named.is_empty() {
            let module = module_name(self.capture, frame.mapping);
            return vec![self.unnamed_line(&address_name(frame, &module))];
        }
        named
            .into_iter()
            .map(|line| wire::Line {
                function_id: self.function(
                    dictionary.string(line.function),
                    dictionary.string(line.file),
                ),
                line: i64::from(line.line),
            })
            .collect()
    }

    /// The line of what has no place in any source.
    fn unnamed_line(&mut self, name: &str) -> wire::Line {
        wire::Line {
            function_id: self.function(name, ""),
            line: 0,
        }
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let name = self.string(&text::clean(name));
        let filename = self.string(&text::clean(file));
        let next = self.functions.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            self.profile.function.push(wire::Function {
                id,
                name,
                // None: where both are the same, pprof demangles the name again and cuts off what stands
                // in `<..>`.
                system_name: 0,
                filename,
            });
        }
        id
    }

    /// 0 where a user address lies in no known mapping, and for functions of scripts; the kernel always has
    /// one.
    fn mapping(&mut self, frame: &Frame) -> u64 {
        if frame.kind == FrameKind::Interpreted
            || frame.mapping.is_none() && frame.kind != FrameKind::Kernel
        {
            return 0;
        }
        let key = (frame.mapping, frame.kind);
        if let Some(known) = self.mappings.get(&key) {
            return *known;
        }
        let mapping = self.capture.dictionary.mapping(frame.mapping);
        let path = mapping.map_or("[kernel]", |m| self.capture.dictionary.string(m.path));
        let build_id: String = mapping
            .map_or(&[][..], |m| &m.build_id)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let id = self.mappings.len() as u64 + 1;
        let mapping = wire::Mapping {
            id,
            filename: self.string(&text::clean(path)),
            build_id: self.string(&build_id),
            // Every location carries a name, if only module+offset. This alone keeps pprof from looking for
            // better ones itself, where it would take our file offsets for addresses.
            has_functions: true,
            has_filenames: false,
            has_line_numbers: false,
            has_inline_frames: false,
        };
        self.profile.mapping.push(mapping);
        self.mappings.insert(key, id);
        id
    }

    /// Says of a mapping what is known of one of its frames.
    fn note_names(&mut self, mapping_id: u64, frame: &Frame) {
        let at = mapping_id.checked_sub(1).map(|at| at as usize);
        if let Some(mapping) = at.and_then(|at| self.profile.mapping.get_mut(at)) {
            mapping.has_filenames |= frame.lines.iter().any(|line| !line.file.is_none());
            mapping.has_line_numbers |= frame.lines.iter().any(|line| line.line != 0);
            mapping.has_inline_frames |= frame.lines.len() > 1;
        }
    }

    fn labels(&mut self, thread: ThreadId, attributes: AttributesId) -> Vec<wire::Label> {
        let dictionary = &self.capture.dictionary;
        let thread = dictionary.thread(thread);
        let process = dictionary.process(thread.process);
        let mut labels = vec![
            self.text_label("process", dictionary.string(process.comm)),
            self.number_label("pid", u64::from(process.pid), ""),
            self.text_label("thread", dictionary.string(thread.comm)),
            self.number_label("tid", u64::from(thread.tid), ""),
        ];
        let container = dictionary.string(process.container);
        if !container.is_empty() {
            labels.push(self.text_label("container", container));
        }
        labels.extend(self.attribute_labels(dictionary.attributes(attributes)));
        labels
    }

    fn attribute_labels(&mut self, attributes: &AttributeSet) -> Vec<wire::Label> {
        attributes
            .as_slice()
            .iter()
            .map(|attribute| {
                let (key, unit) = match attribute.key() {
                    AttributeKey::WaitClass => ("wait_class", ""),
                    AttributeKey::WaitExtent => ("wait_extent", ""),
                    AttributeKey::Device => ("device", ""),
                    AttributeKey::Operation => ("operation", ""),
                    AttributeKey::IoBytes => ("io_bytes", "bytes"),
                    AttributeKey::QueueNs => ("queue", "nanoseconds"),
                };
                match attribute.string() {
                    Some(id) => self.text_label(key, self.capture.dictionary.string(id)),
                    None => self.number_label(key, attribute.number().unwrap_or(0), unit),
                }
            })
            .collect()
    }

    fn text_label(&mut self, key: &str, value: &str) -> wire::Label {
        wire::Label {
            key: self.string(key),
            str: self.string(&text::clean(value)),
            ..wire::Label::default()
        }
    }

    fn number_label(&mut self, key: &str, value: u64, unit: &str) -> wire::Label {
        wire::Label {
            key: self.string(key),
            num: signed(value),
            num_unit: self.string(unit),
            ..wire::Label::default()
        }
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> wire::ValueType {
        wire::ValueType {
            r#type: self.string(kind),
            unit: self.string(unit),
        }
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let id = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), id);
        id
    }
}

/// pprof's numbers are signed; nothing that was measured comes near the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
