//! Source files and lines of addresses.

use std::{collections::HashMap, sync::Arc};

use gimli::Dwarf;

use super::{Location, Slice, Stopped, Targets, Unit};

/// Longest path kept, in bytes (PATH_MAX).
const MAX_PATH: usize = 4096;

/// The source files of a unit, by the numbers it has given them.
pub(super) struct Files<'s, 'a> {
    unit: &'s Unit<'a>,
    dwarf: &'a Dwarf<Slice<'a>>,
    paths: HashMap<u64, Option<Arc<str>>>,
}

impl<'s, 'a> Files<'s, 'a> {
    pub(super) fn new(unit: &'s Unit<'a>, dwarf: &'a Dwarf<Slice<'a>>) -> Self {
        Self {
            unit,
            dwarf,
            paths: HashMap::new(),
        }
    }

    /// The path of a file: absolute if the unit knows its directory.
    pub(super) fn path(
        &mut self,
        index: u64,
        targets: &mut Targets<'_>,
    ) -> Result<Option<Arc<str>>, Stopped> {
        if let Some(path) = self.paths.get(&index) {
            return Ok(path.clone());
        }
        let path = match self.parts(index) {
            Some(parts) => Some(joined(parts, targets)?),
            None => None,
        };
        self.paths.insert(index, path.clone());
        Ok(path)
    }

    /// The directory of the compilation, that of the file, and its name.
    fn parts(&self, index: u64) -> Option<[Option<Slice<'a>>; 3]> {
        let header = self.unit.line_program.as_ref()?.header();
        let file = header.file(index)?;
        let text = |value| self.dwarf.attr_string(self.unit, value).ok();
        let name = text(file.path_name())?;
        let directory = file.directory(header).and_then(text);
        Some([self.unit.comp_dir, directory, Some(name)])
    }
}

fn joined(parts: [Option<Slice<'_>>; 3], targets: &mut Targets<'_>) -> Result<Arc<str>, Stopped> {
    let mut path = String::new();
    for part in parts.into_iter().flatten() {
        push(&mut path, &targets.text(part, MAX_PATH)?);
    }
    Ok(path.into())
}

/// Appends a path to the one it is relative to.
fn push(path: &mut String, part: &str) {
    if part.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    let room = MAX_PATH.saturating_sub(path.len());
    path.push_str(&part[..part.floor_char_boundary(room)]);
}

/// Finds the lines of the addresses in `wanted`, which lie in this unit.
pub(super) fn find<'a>(
    unit: &Unit<'a>,
    dwarf: &'a Dwarf<Slice<'a>>,
    wanted: &[usize],
    targets: &mut Targets<'_>,
) -> Result<(), Stopped> {
    let Some(program) = unit.line_program.clone() else {
        return Ok(());
    };
    let mut files = Files::new(unit, dwarf);
    let mut rows = program.rows();
    // A row holds from its address to that of the next one in its sequence.
    let mut before: Option<Row> = None;
    let mut is_code = false;
    loop {
        targets.tick()?;
        let row = match rows.next_row() {
            Ok(Some((_, row))) => row,
            // What a damaged program said up to here may still be right.
            Ok(None) | Err(_) => break,
        };
        match &before {
            None => {
                is_code = targets
                    .code
                    .iter()
                    .any(|code| code.contains(&row.address()))
            }
            Some(before) if is_code && before.address < row.address() => {
                let first =
                    wanted.partition_point(|index| targets.addresses[*index] < before.address);
                for index in &wanted[first..] {
                    if targets.addresses[*index] >= row.address() {
                        break;
                    }
                    targets.found[*index].location = before.location(&mut files, targets)?;
                }
            }
            Some(_) => {}
        }
        before = (!row.end_sequence()).then(|| Row {
            address: row.address(),
            file: row.file_index(),
            line: row
                .line()
                .map_or(0, |line| u32::try_from(line.get()).unwrap_or_default()),
        });
    }
    Ok(())
}

struct Row {
    address: u64,
    file: u64,
    line: u32,
}

impl Row {
    fn location(
        &self,
        files: &mut Files<'_, '_>,
        targets: &mut Targets<'_>,
    ) -> Result<Location, Stopped> {
        Ok(Location {
            file: files.path(self.file, targets)?,
            line: self.line,
        })
    }
}
