//! What frames are called: one name for a frame in every list and every picture.

use std::collections::HashMap;
use std::rc::Rc;

use profiler_proto::{
    Capture, Frame, FrameId, FrameKind, Line, MappingId, StackEnd, StackId, UnwindMethod,
};

use crate::text;
use crate::view::View;

/// The mapping of code that a JIT compiler made.
const JIT: &str = "[jit]";

/// Sources called so are told apart by their folder.
const COMMON_NAMES: [&str; 3] = ["__init__.py", "__main__.py", "mod.rs"];

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Role {
    /// A function of the process.
    User,
    /// A function of the process that the compiler put into its caller.
    Inlined,
    /// Made by a JIT compiler.
    Jit,
    /// A function of a script, such as a Python function.
    Interpreted,
    /// A function of the kernel.
    Kernel,
    /// Not a frame: a part of the stack is missing here.
    Gap {
        /// Of the kernel part.
        kernel: bool,
    },
}

impl Role {
    /// In a word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Inlined => "inlined",
            Self::Jit => "jit",
            Self::Interpreted => "interpreted",
            Self::Kernel => "kernel",
            Self::Gap { .. } => "marker",
        }
    }

    /// Whether it belongs to the kernel part of a stack.
    pub(crate) fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::Gap { kernel: true })
    }

    /// How folded stacks mark it, as `stackcollapse-perf --kernel --inline --jit` does.
    fn annotation(self) -> &'static str {
        match self {
            Self::User | Self::Interpreted | Self::Gap { kernel: false } => "",
            Self::Inlined => "_[i]",
            Self::Jit => "_[j]",
            Self::Kernel | Self::Gap { kernel: true } => "_[k]",
        }
    }
}

/// A place in the source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place {
    /// Path of the file, safe to print.
    pub(crate) file: String,
    /// Number of the line, 0 where unknown.
    pub(crate) line: u32,
}

impl Place {
    /// `parse.rs:12`, or the file alone.
    pub(crate) fn short(&self) -> String {
        let file = short_path(&self.file);
        match self.line {
            0 => file.to_owned(),
            line => format!("{file}:{line}"),
        }
    }
}

/// One function of a stack, or a marker such as `[cut]` where a part of the stack is missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NamedFrame {
    /// The function, `module+0xoffset`, an address or a marker; safe as a frame of a folded stack, see
    /// [`text::frame_name`].
    pub(crate) name: String,
    /// The name with what tells it from others of that name: the script of an interpreted function, and
    /// the place where it was asked for. As safe.
    pub(crate) shown: String,
    /// File name of the module or the script without its directory; empty for markers and unknown addresses.
    pub(crate) module: String,
    /// Where in the source, if that was asked for and is known.
    pub(crate) place: Option<Place>,
    /// What it is.
    pub(crate) role: Role,
}

impl NamedFrame {
    /// A marker instead of a frame.
    pub(crate) fn marker(name: &str, kernel: bool) -> Self {
        Self {
            name: name.to_owned(),
            shown: name.to_owned(),
            module: String::new(),
            place: None,
            role: Role::Gap { kernel },
        }
    }

    /// The frame as folded stacks write it: what is shown, and `_[k]` for the kernel, `_[i]` for inlined
    /// functions, `_[j]` for those of a JIT compiler.
    pub(crate) fn folded(&self) -> String {
        format!("{}{}", self.shown, self.role.annotation())
    }
}

/// Whether inlined functions are told from others of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inlining {
    /// They are.
    Marked,
    /// They are not, so that a function is one function.
    Ignored,
}

/// Names stacks, each frame once.
pub(crate) struct Namer<'a> {
    capture: &'a Capture,
    places: bool,
    inlining: Inlining,
    frames: HashMap<FrameId, Vec<Rc<NamedFrame>>>,
}

impl<'a> Namer<'a> {
    /// For the stacks of a view.
    pub(crate) fn new(view: &View<'a>, inlining: Inlining) -> Self {
        Self {
            capture: view.capture,
            places: view.lines,
            inlining,
            frames: HashMap::new(),
        }
    }

    /// The frames of a stack, root first, inlined functions as frames of their own below what they were
    /// inlined into.
    pub(crate) fn stack(&mut self, id: StackId) -> Vec<Rc<NamedFrame>> {
        let stack = self.capture.dictionary.stack(id);
        let mut named = Vec::with_capacity(stack.user.len() + stack.kernel.len() + 1);
        let user_gap = gap(stack.user_end, stack.user_method);
        self.part(&stack.user, user_gap, false, &mut named);
        let kernel_gap = gap(stack.kernel_end, UnwindMethod::Unknown);
        self.part(&stack.kernel, kernel_gap, true, &mut named);
        named
    }

    fn part(
        &mut self,
        frames: &[FrameId],
        gap: Option<&str>,
        kernel: bool,
        named: &mut Vec<Rc<NamedFrame>>,
    ) {
        named.extend(gap.map(|name| Rc::new(NamedFrame::marker(name, kernel))));
        for id in frames.iter().rev() {
            if !self.frames.contains_key(id) {
                let functions = self.name(*id);
                self.frames.insert(*id, functions);
            }
            named.extend(self.frames[id].iter().cloned());
        }
    }

    /// The functions of one frame, outermost first.
    fn name(&self, id: FrameId) -> Vec<Rc<NamedFrame>> {
        let frame = self.capture.dictionary.frame(id);
        let role = self.role(frame);
        let outermost = frame.lines.len().saturating_sub(1);
        let lines = frame.lines.iter().enumerate().rev();
        let functions: Vec<_> = lines
            .filter(|(_, line)| !line.function.is_none())
            .map(|(at, line)| {
                let inlined = at < outermost && self.inlining == Inlining::Marked;
                let role = match role {
                    Role::User if inlined => Role::Inlined,
                    other => other,
                };
                Rc::new(self.function(frame, line, role))
            })
            .collect();
        if functions.is_empty() {
            return vec![Rc::new(self.nameless(frame, role))];
        }
        functions
    }

    fn function(&self, frame: &Frame, line: &Line, role: Role) -> NamedFrame {
        let dictionary = &self.capture.dictionary;
        let function = dictionary.string(line.function);
        let file = text::clean(dictionary.string(line.file));
        let module = match role {
            Role::Interpreted => short_path(&file).to_owned(),
            _ => module_name(self.capture, frame.mapping),
        };
        let line = line.line;
        let place = (self.places && !file.is_empty()).then_some(Place { file, line });
        let beside = match &place {
            Some(place) => place.short(),
            None if role == Role::Interpreted => module.clone(),
            None => String::new(),
        };
        let name = text::frame_name(function);
        NamedFrame {
            shown: if beside.is_empty() {
                name.clone()
            } else {
                text::frame_name(&format!("{function} ({beside})"))
            },
            name,
            module,
            place,
            role,
        }
    }

    fn nameless(&self, frame: &Frame, role: Role) -> NamedFrame {
        let module = module_name(self.capture, frame.mapping);
        let name = text::frame_name(&address_name(frame, &module));
        NamedFrame {
            shown: name.clone(),
            name,
            module,
            place: None,
            role,
        }
    }

    fn role(&self, frame: &Frame) -> Role {
        // Names of code in no file come from what its compiler wrote.
        let is_jit = match self.capture.dictionary.mapping(frame.mapping) {
            Some(mapping) => self.capture.dictionary.string(mapping.path) == JIT,
            None => !frame.lines.is_empty(),
        };
        match frame.kind {
            FrameKind::Kernel => Role::Kernel,
            FrameKind::Interpreted => Role::Interpreted,
            FrameKind::User | FrameKind::Unknown if is_jit => Role::Jit,
            FrameKind::User | FrameKind::Unknown => Role::User,
        }
    }
}

/// What stands in a stack for the part that is missing at its root.
pub(crate) fn gap(end: StackEnd, method: UnwindMethod) -> Option<&'static str> {
    match end {
        StackEnd::None | StackEnd::Whole | StackEnd::Unknown => None,
        // As far as an agent could tell that knew no other way.
        StackEnd::FramePointers if method == UnwindMethod::Unknown => None,
        StackEnd::FramePointers => Some("[end of frame pointers]"),
        StackEnd::Cut => Some("[cut]"),
        StackEnd::Unreadable => Some("[unreadable stack]"),
        StackEnd::Lost => Some("[lost stack]"),
        StackEnd::NotRunning => Some("[not running]"),
        StackEnd::NoRule => Some("[no unwind rule]"),
        StackEnd::NoMapping => Some("[outside of all code]"),
        StackEnd::NoTable => Some("[no unwind table yet]"),
        StackEnd::Unsupported => Some("[unwind rule not supported]"),
        StackEnd::Compat => Some("[32-bit process]"),
        StackEnd::NoProgress => Some("[stack did not advance]"),
    }
}

/// What a frame without a function is called: `module+0xoffset`, or the address where it lies in nothing
/// that is known.
pub(crate) fn address_name(frame: &Frame, module: &str) -> String {
    if module.is_empty() {
        format!("{:#x}", frame.address)
    } else {
        format!("{module}+{:#x}", frame.address)
    }
}

/// The file name of a mapping, safe to print; empty where it is not known. Whether the file has been
/// deleted since is left to the path.
pub(crate) fn module_name(capture: &Capture, id: MappingId) -> String {
    let path = mapping_path(capture, id);
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    text::clean(file_name(path))
}

fn mapping_path(capture: &Capture, id: MappingId) -> &str {
    let mapping = capture.dictionary.mapping(id);
    mapping.map_or("", |mapping| capture.dictionary.string(mapping.path))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The file name of a source, with its folder where many are called so.
fn short_path(path: &str) -> &str {
    let name = file_name(path);
    if !COMMON_NAMES.contains(&name) {
        return name;
    }
    let folder = path.len().saturating_sub(name.len() + 1);
    let start = path[..folder].rfind('/').map_or(0, |at| at + 1);
    &path[start..]
}

#[cfg(test)]
mod tests {
    use profiler_proto::{Event, Mapping};

    use super::*;
    use crate::sample_capture;

    fn folded(capture: &Capture, lines: bool, inlining: Inlining) -> Vec<Vec<String>> {
        let mut view = View::new(capture, Event::Cpu, false).unwrap();
        view.lines = lines;
        let mut namer = Namer::new(&view, inlining);
        let stacks = view.samples().map(|sample| namer.stack(sample.stack));
        let names = |stack: Vec<Rc<NamedFrame>>| stack.iter().map(|f| f.folded()).collect();
        stacks.map(names).collect()
    }

    #[test]
    fn every_kind_of_frame_has_its_name() {
        let capture = sample_capture::languages();
        let stacks = folded(&capture, false, Inlining::Marked);
        let expected = [
            "_start main _PyEval_EvalFrameDefault <module>~(app.py) handle~(app.py) dumps~(json/__init__.py) \
             _PyEval_EvalFrameDefault ascii_escape PyUnicode_READ_[i]",
            "_start main _PyEval_EvalFrameDefault <module>~(app.py) handle~(app.py) dumps~(json/__init__.py)",
            "_start main _PyEval_EvalFrameDefault <module>~(app.py) handle~(app.py)",
            "_start main app::parse core::hash::write_[i] core::hash::mix_[i]",
            "_start main app::parse core::hash::write_[i] core::hash::mix_[i] __vdso_clock_gettime",
            "_start main LazyCompile:~tick_[j] [jit]+0x10080_[j] app::parse core::hash::write_[i] \
             core::hash::mix_[i]",
            "[no~unwind~rule] libc.so.6+0x91234 app::parse core::hash::write_[i] core::hash::mix_[i]",
            "[outside~of~all~code] 0x7f00deadb000",
            "[cut] main main main main main main main main main",
        ];
        let joined: Vec<_> = stacks
            .iter()
            .map(|stack| stack.join(";").replace(' ', "~").replace(';', " "))
            .collect();
        assert_eq!(joined, expected);
    }

    #[test]
    fn frame_pointers_that_end_are_a_gap_where_there_are_other_ways() {
        let end = StackEnd::FramePointers;
        assert_eq!(gap(end, UnwindMethod::Unknown), None);
        for method in [UnwindMethod::FramePointers, UnwindMethod::Mixed] {
            assert_eq!(gap(end, method), Some("[end of frame pointers]"));
            assert_eq!(gap(StackEnd::Whole, method), None);
        }
    }

    #[test]
    fn inlining_is_ignored_where_a_function_is_to_be_one() {
        let capture = sample_capture::languages();
        let stacks = folded(&capture, false, Inlining::Ignored);
        let functions = [
            "_start",
            "main",
            "app::parse",
            "core::hash::write",
            "core::hash::mix",
        ];
        assert_eq!(stacks[3], functions);
    }

    #[test]
    fn lines_are_told_apart_where_they_are_asked_for() {
        let capture = sample_capture::languages();
        let stacks = folded(&capture, true, Inlining::Marked);
        assert_eq!(stacks[1][5], "dumps (json/__init__.py:231)");
        assert_eq!(stacks[1][4], "handle (app.py:12)");
        assert_eq!(stacks[2][4], "handle (app.py:17)");
        assert_eq!(stacks[3][4], "core::hash::mix (app.rs:10)_[i]");
        assert_eq!(stacks[6][1], "libc.so.6+0x91234");
    }

    #[test]
    fn a_source_that_many_are_called_is_named_with_its_folder() {
        for (path, name) in [
            ("/srv/app.py", "app.py"),
            ("/usr/lib/python3/json/__init__.py", "json/__init__.py"),
            ("flask/__main__.py", "flask/__main__.py"),
            ("/__init__.py", "/__init__.py"),
            ("__init__.py", "__init__.py"),
            (
                "<frozen importlib._bootstrap>",
                "<frozen importlib._bootstrap>",
            ),
            ("", ""),
        ] {
            assert_eq!(short_path(path), name);
        }
    }

    #[test]
    fn a_nameless_frame_is_a_place_in_its_module_or_an_address() {
        let mut capture = sample_capture::capture();
        let mut name = |path: &str| {
            let path = capture.dictionary.intern_string(path);
            let mapping = Mapping {
                path,
                build_id: Vec::new(),
            };
            let mapping = capture.dictionary.intern_mapping(mapping);
            let frame = Frame {
                mapping,
                address: 0x1234,
                ..Frame::default()
            };
            address_name(&frame, &module_name(&capture, frame.mapping))
        };
        assert_eq!(name("/usr/lib/libc.so.6"), "libc.so.6+0x1234");
        assert_eq!(name("/tmp/gone (deleted)"), "gone+0x1234");
        assert_eq!(name("[vdso]"), "[vdso]+0x1234");
        assert_eq!(name("[jit]"), "[jit]+0x1234");
        assert_eq!(name(""), "0x1234");
        let unknown = Frame {
            address: 0x7f00_dead_b000,
            ..Frame::default()
        };
        assert_eq!(address_name(&unknown, ""), "0x7f00deadb000");
    }
}
