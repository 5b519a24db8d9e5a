//! Rules about the compiled kernel objects.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

use crate::ebpf;

/// The section from which loaders take the licence; helpers that only GPL programs may call depend on it.
const SECTION: &str = "license";

pub(crate) fn licence_is_gpl(folder: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for file in ebpf::object_files() {
        let path = folder.join(file);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match licence(&bytes).with_context(|| format!("cannot parse {}", path.display()))? {
            Some(licence) if licence == "GPL" => {}
            Some(licence) => breaches.push(format!("{file} declares the licence {licence:?}")),
            None => breaches.push(format!("{file} has no section {SECTION:?}")),
        }
    }
    Ok(breaches)
}

/// What the object declares, without the closing NUL.
fn licence(object: &[u8]) -> Result<Option<String>> {
    let object = object::File::parse(object)?;
    let Some(section) = object.section_by_name(SECTION) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    Ok(Some(text.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::Object as Writer;
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};

    /// Writes both objects with the section, and looks at them.
    fn breaches(section: &str, content: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut object = Writer::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let id = object.add_section(Vec::new(), section.into(), SectionKind::Data);
        object.set_section_data(id, content.to_vec(), 1);
        let bytes = object.write().unwrap();
        for file in ebpf::object_files() {
            fs::write(folder.path().join(file), &bytes).unwrap();
        }
        licence_is_gpl(folder.path()).unwrap()
    }

    #[test]
    fn gpl_is_accepted() {
        assert!(breaches(SECTION, b"GPL\0").is_empty());
    }

    #[test]
    fn another_licence_is_shown() {
        let found = breaches(SECTION, b"Proprietary\0");
        assert_eq!(
            found[0],
            "profiler.bpf.o declares the licence \"Proprietary\""
        );
    }

    #[test]
    fn no_licence_is_shown() {
        let found = breaches("maps", b"");
        assert_eq!(found[1], "profiler-hash.bpf.o has no section \"license\"");
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(licence(b"not an ELF file").is_err());
    }
}
