//! Unwind tables of hand-made files, row by row, and of files of this machine
//! compared with gimli.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod cfi;
mod code;
mod elf_file;
mod frames;
mod go;
mod hostile;
mod machine;
mod reference;
mod sections;

use profiler_abi::unwind::{Rule, cfa, runtime_kind, saved};
use profiler_agent::unwind::{
    elf::ReadAt,
    table::{BuildError, BuildLimits, Table, build},
};

/// The table of a file's bytes.
fn table(file: &dyn ReadAt) -> Table {
    try_table(file).unwrap()
}

fn try_table(file: &dyn ReadAt) -> Result<Table, BuildError> {
    build(file, &BuildLimits::default())
}

/// All rows as text, but the one before the code and what begins a page and
/// only goes on.
fn rows(file: &dyn ReadAt) -> Vec<String> {
    let table = table(file);
    let mut before = "-".to_string();
    let mut lines = Vec::new();
    for (address, rule) in table.rows() {
        let text = rule.map_or("-".into(), show);
        if text != before {
            lines.push(format!("{address:x}: {text}"));
        }
        assert_eq!(table.rule(address), rule, "{address:x} is not found");
        before = text;
    }
    lines
}

/// A rule in few characters: frame address; frame pointer; return address where
/// it is not just below the frame.
fn show(rule: Rule) -> String {
    let Rule {
        cfa_offset: offset,
        parameter,
        ..
    } = rule;
    let address = match rule.cfa {
        cfa::UNSUPPORTED => return "?".into(),
        cfa::END => return "end".into(),
        cfa::SIGNAL => return format!("signal sp{offset:+}"),
        cfa::STACK_POINTER => format!("sp{offset:+}"),
        cfa::FRAME_POINTER if parameter == cfa::SWITCHED => format!("other stack fp{offset:+}"),
        cfa::FRAME_POINTER => format!("fp{offset:+}"),
        cfa::AT_STACK_POINTER => format!("*(sp{offset:+}){parameter:+}"),
        cfa::AT_FRAME_POINTER => format!("*(fp{offset:+}){parameter:+}"),
        cfa::REGISTER => format!("r{parameter}{offset:+}"),
        cfa::PLT => format!("plt sp{offset:+} from {parameter}"),
        other => panic!("no such frame address: {other}"),
    };
    let place = |kind: u8, offset: i16| match kind {
        saved::SAME => "same".into(),
        saved::AT_CFA => format!("cfa{offset:+}"),
        saved::AT_FRAME_POINTER => format!("*(fp{offset:+})"),
        saved::LINK_REGISTER => "lr".into(),
        saved::UNDEFINED => "lost".into(),
        other => panic!("no such place: {other}"),
    };
    let frame_pointer = place(rule.frame_pointer, rule.frame_pointer_offset);
    let return_address = place(rule.return_address, rule.return_address_offset);
    let mut text = format!("{address}, fp {frame_pointer}");
    if return_address != "cfa-8" {
        text += &format!(", ra {return_address}");
    }
    if rule.runtime == runtime_kind::PYTHON {
        text += ", python";
    }
    text
}
