//! Separate files with the debug information of a stripped one, as GDB's manual
//! (*Separate Debug Files*) says where they are: by build-id and by
//! `.gnu_debuglink`, beside the file and under `/usr/lib/debug`. They are looked
//! for in the root directory of the process that has mapped the file, then on
//! the host, where only the same build-id will do: a file of a container has
//! nothing to do with one that happens to have its path on the host.

use std::{
    ffi::OsStr,
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{cache::DEBUG, sections::Binary};
use crate::mapped_file::{MappedFile, MappedFileError};

/// Where distributions put them.
const GLOBAL: &str = "/usr/lib/debug";

/// Longest section that names another file.
const MAX_LINK: u64 = 8 << 10;

/// Longest name of a file (NAME_MAX).
const MAX_FILE_NAME: usize = 255;

/// Largest file whose checksum is computed: a second's work.
const MAX_CHECKED: u64 = 1 << 30;

/// What `.gnu_debuglink` says: the name of a file and the CRC-32 of its bytes.
#[derive(Debug, PartialEq, Eq)]
struct DebugLink {
    name: PathBuf,
    checksum: u32,
}

/// The file with the debug information of `binary`, if there is one that is
/// surely its own. `downloads` is where those from debuginfod are.
pub fn find(binary: &Binary, build_id: &[u8], downloads: Option<&Path>) -> Option<Binary> {
    let link = read_link(binary);
    let own = candidates(binary.file().path(), build_id, link.as_ref());
    let own = own.iter().map(|path| (binary.file().beside(path), true));
    let by_id = by_build_id(build_id).filter(|_| !binary.file().is_on_host());
    let hosts = by_id.map(|path| (MappedFile::on_host(&path), false));
    let downloaded = downloads.filter(|_| !build_id.is_empty()).map(|folder| {
        let name = format!("{}.{DEBUG}", hex(build_id));
        (MappedFile::in_folder(folder, &name), false)
    });
    own.chain(hosts)
        .chain(downloaded)
        .find_map(|(file, may_be_linked)| {
            let link = link.as_ref().filter(|_| may_be_linked);
            accepted(file, build_id, link, binary)
        })
}

/// The file whose strings and functions the debug information of `debug` refers
/// to (`.gnu_debugaltlink`, made by dwz): its path and its build-id.
pub fn find_shared(debug: &Binary) -> Option<Binary> {
    let section = debug.read(".gnu_debugaltlink", MAX_LINK).ok()?;
    let (name, build_id) = split_name(&section)?;
    if build_id.is_empty() {
        return None;
    }
    let folder = debug.file().path().parent()?;
    let by_path = folder.join(OsStr::from_bytes(name));
    let paths = [Some(by_path), by_build_id(build_id)];
    paths.into_iter().flatten().find_map(|path| {
        let file = debug.file().beside(&path);
        accepted(file, build_id, None, debug)
    })
}

/// Where GDB looks, in its order.
fn candidates(path: &Path, build_id: &[u8], link: Option<&DebugLink>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = by_build_id(build_id).into_iter().collect();
    if let (Some(link), Some(folder)) = (link, path.parent()) {
        paths.push(folder.join(&link.name));
        paths.push(folder.join(".debug").join(&link.name));
        if let Ok(inside) = folder.strip_prefix("/") {
            paths.push(Path::new(GLOBAL).join(inside).join(&link.name));
        }
    }
    paths
}

/// `/usr/lib/debug/.build-id/xx/yyyy.debug`; `None`: it is too short for that.
pub fn by_build_id(build_id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = build_id.split_first()?;
    if rest.is_empty() {
        return None;
    }
    let name = format!(".build-id/{first:02x}/{}.debug", hex(rest));
    Some(Path::new(GLOBAL).join(name))
}

/// Bytes as they stand in file names.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The candidate, if it belongs to `binary`: it has the same build-id, or the
/// checksum that the link gives.
fn accepted(
    candidate: Result<MappedFile, MappedFileError>,
    build_id: &[u8],
    link: Option<&DebugLink>,
    binary: &Binary,
) -> Option<Binary> {
    let candidate = Binary::new(Arc::new(candidate.ok()?)).ok()?;
    if candidate.image().machine != binary.image().machine {
        return None;
    }
    let its_id = candidate.build_id();
    let is_its_own = match link {
        _ if !build_id.is_empty() && !its_id.is_empty() => its_id == build_id,
        Some(link) => checksum(candidate.file()).is_ok_and(|sum| sum == link.checksum),
        None => false,
    };
    is_its_own.then_some(candidate)
}

fn read_link(binary: &Binary) -> Option<DebugLink> {
    let section = binary.read(".gnu_debuglink", MAX_LINK).ok()?;
    parse_link(&section)
}

/// A name that ends with a zero byte, padding to 4 bytes, the checksum. The name
/// must be that of a file, not a path.
fn parse_link(section: &[u8]) -> Option<DebugLink> {
    let (name, _) = split_name(section)?;
    let at = (name.len() + 1).next_multiple_of(4);
    let checksum = section.get(at..)?.first_chunk()?;
    let is_file_name =
        name.len() <= MAX_FILE_NAME && !name.contains(&b'/') && name != b".." && name != b".";
    is_file_name.then(|| DebugLink {
        name: OsStr::from_bytes(name).into(),
        checksum: u32::from_ne_bytes(*checksum),
    })
}

/// What stands before the first zero byte, which is not nothing, and after it.
fn split_name(section: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = section.iter().position(|byte| *byte == 0)?;
    let (name, rest) = section.split_at(end);
    (!name.is_empty()).then(|| (name, &rest[1..]))
}

fn checksum(file: &MappedFile) -> io::Result<u32> {
    const WINDOW: usize = 256 << 10;
    let (mut sum, mut offset, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; WINDOW]);
    while offset <= MAX_CHECKED {
        match file.file().read_at(&mut buffer, offset)? {
            0 => return Ok(sum.finalize()),
            count => {
                sum.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &[u8], checksum: u32) -> Vec<u8> {
        let mut bytes = name.to_vec();
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(&checksum.to_ne_bytes());
        bytes
    }

    #[test]
    fn links_name_files_and_no_paths() {
        for name in ["libc.so.debug", "x", "..x", "\u{e9}"] {
            let link = parse_link(&section(name.as_bytes(), 7)).unwrap();
            assert_eq!(link.name, Path::new(name));
            assert_eq!(link.checksum, 7);
        }
        let long = "x".repeat(MAX_FILE_NAME + 1);
        for name in [
            "",
            ".",
            "..",
            "../../etc/shadow",
            "/etc/shadow",
            "a/b",
            &long,
        ] {
            assert_eq!(parse_link(&section(name.as_bytes(), 7)), None, "{name}");
        }
        let whole = section(b"abcd", 7);
        for end in 0..whole.len() {
            assert_eq!(parse_link(&whole[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn files_are_looked_for_where_gdb_looks() {
        let link = DebugLink {
            name: "prog.debug".into(),
            checksum: 0,
        };
        let paths = candidates(Path::new("/opt/bin/prog"), &[0xab, 0xcd, 1], Some(&link));
        let expected = [
            "/usr/lib/debug/.build-id/ab/cd01.debug",
            "/opt/bin/prog.debug",
            "/opt/bin/.debug/prog.debug",
            "/usr/lib/debug/opt/bin/prog.debug",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
        assert_eq!(
            candidates(Path::new(""), &[], Some(&link)),
            [] as [PathBuf; 0]
        );
        assert_eq!(candidates(Path::new("/x"), &[1], None), [] as [PathBuf; 0]);
    }
}
