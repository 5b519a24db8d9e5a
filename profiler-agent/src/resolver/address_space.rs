//! The executable mappings of a process at a time: what `/proc` showed of it,
//! and what the kernel has told since.

use crate::{
    processes::{Mapping, Paths},
    sideband::{Image, ImageMapping},
};

/// How the kernel's side band names memory without a file.
const ANONYMOUS: &str = "//anon";

/// Mappings of an image, with those that lay there before and still do.
pub(super) fn with_image(base: &[Mapping], image: &Image, paths: &mut Paths) -> Vec<Mapping> {
    let newer: Vec<Mapping> = image
        .mappings()
        .iter()
        .map(|mapping| mapping_of(mapping, paths))
        .collect();
    let mut all: Vec<Mapping> = base.iter().flat_map(|old| uncovered(old, &newer)).collect();
    all.extend(newer);
    all.sort_by_key(|mapping| mapping.start);
    all
}

fn mapping_of(mapping: &ImageMapping, paths: &mut Paths) -> Mapping {
    let path = match mapping.name.path.as_str() {
        ANONYMOUS => "",
        path => path,
    };
    Mapping {
        start: mapping.start,
        end: mapping.end,
        offset: mapping.offset,
        file: mapping.name.file,
        path: paths.share(path),
    }
}

/// The parts of a mapping that none of the newer ones lies on. Those are sorted
/// and do not overlap.
fn uncovered(old: &Mapping, newer: &[Mapping]) -> Vec<Mapping> {
    let first = newer.partition_point(|mapping| mapping.end <= old.start);
    let covering = newer[first..]
        .iter()
        .take_while(|mapping| mapping.start < old.end);
    let mut parts = Vec::new();
    let mut start = old.start;
    for mapping in covering {
        if start < mapping.start {
            parts.push(part(old, start, mapping.start));
        }
        start = mapping.end;
    }
    if start < old.end {
        parts.push(part(old, start, old.end));
    }
    parts
}

fn part(whole: &Mapping, start: u64, end: u64) -> Mapping {
    Mapping {
        start,
        end,
        offset: whole.offset.wrapping_add(start - whole.start),
        ..whole.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::FileId;

    fn mapping(start: u64, end: u64, offset: u64, path: &str) -> Mapping {
        Mapping {
            start,
            end,
            offset,
            file: FileId::default(),
            path: path.into(),
        }
    }

    #[test]
    fn what_lies_under_a_newer_mapping_is_gone() {
        let newer = [mapping(20, 30, 0, "new"), mapping(40, 50, 0, "new")];
        let parts = uncovered(&mapping(10, 60, 100, "old"), &newer);
        assert_eq!(
            parts,
            [
                mapping(10, 20, 100, "old"),
                mapping(30, 40, 120, "old"),
                mapping(50, 60, 140, "old"),
            ]
        );
        assert_eq!(uncovered(&mapping(20, 30, 0, "old"), &newer), []);
        assert_eq!(uncovered(&mapping(22, 28, 0, "old"), &newer), []);
        let beside = mapping(30, 40, 0, "old");
        assert_eq!(uncovered(&beside, &newer), [beside]);
    }
}
