//! The archive format of an initramfs: cpio "newc", as the kernel's early-userspace documentation (buffer-format) has it.

/// An archive under construction.
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// Every part is padded to this many bytes.
const ALIGNMENT: usize = 4;

impl Cpio {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: 0,
        }
    }

    /// Adds an empty folder; its parent must have been added.
    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file that may be executed.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let name_size = path.len() + 1;
        // Inode, mode, user, group, links, time, size, device (2), special device (2), size of the name, checksum.
        let fields = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            links,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        let size = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(size, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_format() {
        let mut archive = Cpio::new();
        archive.folder("bin");
        archive.file("bin/a", b"xyz");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000041ed", "mode of a folder");
        // A header has 110 bytes, a name ends with NUL, and both together are padded to four.
        assert_eq!(&bytes[110..114], b"bin\0");
        let file = &bytes[116..];
        assert_eq!(&file[..6], b"070701");
        assert_eq!(&file[54..62], b"00000003", "size of the content");
        assert_eq!(&file[94..102], b"00000006", "size of the name");
        assert_eq!(&file[110..116], b"bin/a\0");
        assert_eq!(&file[116..120], b"xyz\0");
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
