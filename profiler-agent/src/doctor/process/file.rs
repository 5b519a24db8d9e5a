//! One mapped file: whether its code can be unwound and named, and by what.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_proto::pb::{Check, CheckState, CodeMapping};

use crate::{
    doctor::{degraded, ok},
    mapped_file::MappedFile,
    processes::Mapping,
    runtimes::python::PythonBinary,
    symbols::{debug_files, dwarf, gopclntab::GoNames, sections::Binary},
    unwind::table::{self, BuildError, BuildLimits, Source, TableReport, Unsupported},
};

/// What is left where a file has no rules.
pub(super) const FRAME_POINTER: &str = "frame pointer";

/// Longest that the table of one file may take to build here.
const BUILD_TIME: Duration = Duration::from_secs(5);

/// What was found about a file.
#[derive(Clone, Debug)]
pub(super) struct FileReport {
    build_id: Vec<u8>,
    unwind_state: CheckState,
    unwind: String,
    unwind_detail: String,
    names_state: CheckState,
    names: Vec<String>,
    missing_debug_file: String,
    /// The interpreter in it, if there is one.
    pub(super) python: Option<Check>,
}

impl FileReport {
    /// About a file that cannot be looked at.
    pub(super) fn nothing(why: impl Into<String>) -> Self {
        Self {
            build_id: Vec::new(),
            unwind_state: CheckState::Failed,
            unwind: FRAME_POINTER.to_owned(),
            unwind_detail: why.into(),
            names_state: CheckState::Failed,
            names: Vec::new(),
            missing_debug_file: String::new(),
            python: None,
        }
    }

    /// Looks at the file behind a mapping.
    pub(super) fn open(
        pid: u32,
        mapping: &Mapping,
        fetched: Option<&Path>,
        deadline: Instant,
    ) -> Self {
        match MappedFile::open(pid, mapping) {
            Ok(file) => Self::of(&Arc::new(file), fetched, deadline),
            Err(error) => Self::nothing(format!("the file is not read: {error}")),
        }
    }

    /// Looks at a file, unless the time for that is up.
    pub(super) fn of(file: &Arc<MappedFile>, fetched: Option<&Path>, deadline: Instant) -> Self {
        let time = deadline.saturating_duration_since(Instant::now());
        if time.is_zero() {
            return Self::nothing("not looked at: other files took too long");
        }
        let binary = match Binary::new(Arc::clone(file)) {
            Ok(binary) => binary,
            Err(error) => return Self::nothing(error.to_string()),
        };
        let build_id = binary.build_id();
        let mut report = Self {
            python: python(&binary),
            ..Self::nothing("")
        };
        report.look_for_rules(&binary, time);
        report.look_for_names(&binary, &build_id, fetched);
        report.build_id = build_id;
        report
    }

    /// About a file for which nobody has one.
    pub(super) fn without_debug_file(self) -> Self {
        Self {
            missing_debug_file: String::new(),
            ..self
        }
    }

    fn look_for_rules(&mut self, binary: &Binary, time: Duration) {
        let limits = BuildLimits {
            time: time.min(BUILD_TIME),
            ..BuildLimits::default()
        };
        match table::build(&**binary.file(), &limits) {
            Ok(table) => {
                let source = source_name(table.report.source, binary);
                self.unwind_state = match source {
                    Some(_) => CheckState::Ok,
                    None => CheckState::Degraded,
                };
                self.unwind = source.unwrap_or(FRAME_POINTER).to_owned();
                self.unwind_detail = describe(&table.report, table.bytes());
            }
            Err(BuildError::NoRules) => {
                self.unwind_state = CheckState::Degraded;
                self.unwind_detail = BuildError::NoRules.to_string();
            }
            Err(error) => self.unwind_detail = error.to_string(),
        }
    }

    fn look_for_names(&mut self, binary: &Binary, build_id: &[u8], fetched: Option<&Path>) {
        let separate = debug_files::find(binary, build_id, fetched);
        let has = |section: &str| binary.has(section);
        let separate_has = |section: &str| separate.as_ref().is_some_and(|file| file.has(section));
        let has_dwarf = dwarf::bytes_of(binary) > 0
            || separate
                .as_ref()
                .is_some_and(|file| dwarf::bytes_of(file) > 0);
        let is_go = GoNames::find(&**binary.file(), binary.image().clone()).is_ok();
        let whole = [
            (is_go, ".gopclntab"),
            (has(".symtab"), ".symtab"),
            (!has(".symtab") && separate_has(".symtab"), "debug file"),
        ];
        let partial = [
            (has(".gnu_debugdata"), ".gnu_debugdata"),
            (has(".dynsym"), ".dynsym"),
        ];
        let there = |sources: &[(bool, &str)]| -> Vec<String> {
            let there = sources.iter().filter(|(is_there, _)| *is_there);
            there.map(|(_, name)| (*name).to_owned()).collect()
        };
        self.names = there(&whole);
        if self.names.is_empty() {
            self.names = there(&partial);
            self.names_state = match self.names.is_empty() {
                true => CheckState::Failed,
                false => CheckState::Degraded,
            };
        } else {
            self.names_state = CheckState::Ok;
        }
        if has_dwarf {
            self.names.push("DWARF".to_owned());
        } else if !is_go {
            let path = debug_files::by_build_id(build_id);
            self.missing_debug_file = path.unwrap_or_default().to_string_lossy().into_owned();
        }
    }

    /// Completes what is known of a mapping of the file.
    pub(super) fn onto(self, about: CodeMapping) -> CodeMapping {
        let Self {
            build_id,
            unwind_state,
            unwind,
            unwind_detail,
            names_state,
            names,
            missing_debug_file,
            python: _,
        } = self;
        CodeMapping {
            build_id,
            unwind_state: unwind_state.into(),
            unwind,
            unwind_detail,
            names_state: names_state.into(),
            names,
            missing_debug_file,
            ..about
        }
    }
}

/// `None`: nothing but what every linker adds has rules.
fn source_name(source: Source, binary: &Binary) -> Option<&'static str> {
    match source {
        Source::EhFrame => Some(".eh_frame"),
        Source::DebugFrame => Some(".debug_frame"),
        Source::Go => Some(".gopclntab"),
        // Of a small program that is more than its own functions.
        Source::None => {
            let mut sections = [".eh_frame", ".debug_frame"].into_iter();
            sections.find(|section| binary.has(section))
        }
    }
}

/// How much there is, and what cannot be followed.
fn describe(report: &TableReport, bytes: usize) -> String {
    let mut text = format!("{} rows, {} KiB", report.rows, bytes.div_ceil(1024));
    let unsupported: u64 = report.unsupported.iter().sum();
    if unsupported > 0 {
        let reasons = Unsupported::ALL.iter().zip(report.unsupported);
        let reasons = reasons.filter(|(_, count)| *count > 0);
        let reasons: Vec<_> = reasons
            .map(|(reason, count)| format!("{count} {}", reason.name()))
            .collect();
        text += &format!("; {unsupported} not followed: {}", reasons.join(", "));
    }
    for (count, what) in [
        (report.malformed, "malformed entries"),
        (report.crowded_pages, "pages with too many rows"),
    ] {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    text
}

fn python(binary: &Binary) -> Option<Check> {
    let name = "python";
    match PythonBinary::find(&**binary.file(), binary.image()) {
        Ok(None) => None,
        Ok(Some(python)) => Some(ok(
            name,
            format!("CPython 3.{}: its functions are shown", python.minor()),
        )),
        Err(error) => Some(degraded(
            name,
            error.to_string(),
            "use CPython 3.8 to 3.13: functions of others are not shown",
        )),
    }
}
