//! Measures which part of a mapped file runs read, by the pages that they touch.
//!
//! When a session is created, it maps its prepared form and copies parts of it: weights that
//! kernels read in another order, trees, vocabularies. No run reads those pages again. So pages
//! count as cold if they are mapped after a run and the run has not touched them. A run may read
//! any of the others: one row of data reads a few rows of a table, another request reads other
//! rows.
//!
//! The kernel also maps pages around a requested one, so a few pages count as read by the creation
//! that were not. Cold pages were copied, so they are at most as large as the session's own memory.

#![expect(unsafe_code, reason = "a system call on addresses marks the pages of a mapping")]

use std::ffi::c_void;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::disable_transparent_huge_pages;

/// Size of a file in bytes up to which it is not measured. All of it then counts as copied, up to
/// the session's own memory.
const SMALL: u64 = 1 << 20;

/// A file that this process has mapped.
#[derive(Debug)]
pub struct Mapping {
    file: PathBuf,
    bytes: u64,
    /// Whether the pages that the session's creation has read are marked as untouched.
    is_marked: bool,
}

impl Mapping {
    /// Calls `create`, which maps `file`, and marks the pages that it has read as untouched.
    pub fn created<T>(file: &Path, create: impl FnOnce() -> T) -> (T, Self) {
        // A huge page counts as touched as a whole. If the system refuses, the result is coarser.
        let _ = disable_transparent_huge_pages(true);
        let created = create();
        let _ = disable_transparent_huge_pages(false);
        let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
        let mapping = Self {
            file: file.to_owned(),
            bytes,
            is_marked: bytes > SMALL && parts(file).is_some_and(|parts| mark(&parts)),
        };
        (created, mapping)
    }

    /// Bytes that runs may read, for a session with `private` bytes of its own memory. Without a
    /// run, or if the system does not report it, the session's own memory counts as a copy.
    pub fn read_by_runs(&self, has_run: bool, private: u64) -> u64 {
        let measured = (self.is_marked && has_run).then(|| parts(&self.file)).flatten();
        let copied = measured.map_or(private, |parts| cold(&parts).min(private));
        self.bytes.saturating_sub(copied)
    }
}

/// A part of this process's address space.
#[derive(Debug, Default, PartialEq, Eq)]
struct MappedPart {
    start: usize,
    end: usize,
    /// Position of the first byte in the file.
    offset: u64,
    /// Bytes that are mapped and in memory.
    resident: u64,
    /// Resident bytes that were touched since they were marked.
    touched: u64,
}

/// The parts of `file` that this process has mapped, as offsets of their first byte and of the one
/// after their last; `None` if the system does not report them.
pub fn mapped_offsets(file: &Path) -> Option<Vec<(u64, u64)>> {
    let parts = parts(file)?;
    let offsets = parts
        .iter()
        .map(|part| (part.offset, part.offset + (part.end - part.start) as u64));
    Some(offsets.collect())
}

fn cold(parts: &[MappedPart]) -> u64 {
    parts
        .iter()
        .map(|part| part.resident.saturating_sub(part.touched))
        .sum()
}

/// Marks the pages of `parts` as untouched. Returns whether the system has done so.
fn mark(parts: &[MappedPart]) -> bool {
    let mark = |part: &MappedPart| {
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(part.start);
        // SAFETY: this advice affects when pages are reclaimed, never their content. The part
        // cannot be unmapped meanwhile, because only this thread could drop the session.
        unsafe { libc::madvise(start, part.end - part.start, libc::MADV_COLD) == 0 }
    };
    !parts.is_empty() && parts.iter().all(mark)
}

/// The parts of the address space to which this process has mapped `file`.
fn parts(file: &Path) -> Option<Vec<MappedPart>> {
    Some(parts_in(&fs::read_to_string("/proc/self/smaps").ok()?, file.to_str()?))
}

/// Parses the mappings of `file` from the text of `/proc/self/smaps`: a line with addresses,
/// rights, offset, device, inode and path, then lines of sizes.
fn parts_in(smaps: &str, file: &str) -> Vec<MappedPart> {
    let mut parts: Vec<MappedPart> = Vec::new();
    let mut is_wanted = false;
    for line in smaps.lines() {
        if let Some((start, end)) = addresses(line) {
            let mut fields = line.splitn(6, ' ').skip(2);
            let offset = fields.next().and_then(|offset| u64::from_str_radix(offset, 16).ok());
            let path = fields.nth(2).unwrap_or_default().trim_start();
            is_wanted = path == file;
            if is_wanted {
                parts.push(MappedPart {
                    start,
                    end,
                    offset: offset.unwrap_or(0),
                    ..MappedPart::default()
                });
            }
        } else if is_wanted
            && let Some(part) = parts.last_mut()
            && let Some((name, size)) = line.split_once(':')
        {
            let bytes = || {
                size.trim()
                    .strip_suffix(" kB")
                    .and_then(|size| size.parse::<u64>().ok())
            };
            match name {
                "Rss" => part.resident = bytes().unwrap_or(0) << 10,
                "Referenced" => part.touched = bytes().unwrap_or(0) << 10,
                _ => {}
            }
        }
    }
    parts
}

/// Parses addresses such as `7f0000000000-7f0000001000` at the beginning of a mapping's first line.
fn addresses(line: &str) -> Option<(usize, usize)> {
    let (start, rest) = line.split_once(' ')?.0.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(rest)?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    const SMAPS: &str = "\
7f10-7f20 rw-p 00000000 fe:01 12                         /cache/new one
Size:                 64 kB
Rss:                  48 kB
Referenced:            0 kB
VmFlags: rd wr mr mw me
7f20-7f30 rw-p 00010000 fe:01 13                         /cache/new one.1
Rss:                  16 kB
7f30-7f40 rw-p 00010000 fe:01 12                         /cache/new one
Rss:                   8 kB
Referenced:            4 kB
7f40-7f50 rw-p 00000000 00:00 0 
Rss:                  64 kB
";

    #[test]
    fn finds_the_mappings_of_a_file_by_its_whole_path() {
        let part = |start, end, offset, resident: u64, touched: u64| MappedPart {
            start,
            end,
            offset,
            resident: resident << 10,
            touched: touched << 10,
        };
        let expected = [part(0x7f10, 0x7f20, 0, 48, 0), part(0x7f30, 0x7f40, 0x10000, 8, 4)];
        assert_eq!(parts_in(SMAPS, "/cache/new one"), expected);
        assert_eq!(parts_in(SMAPS, "/cache/new"), []);
    }

    #[test]
    fn all_of_a_file_counts_except_what_only_its_creation_reads() {
        const BYTES: usize = 4 << 20;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; BYTES]).unwrap();
        let map = |file: &File| {
            // SAFETY: a new mapping, anywhere; the result is checked.
            let start = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    BYTES,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE,
                    file.as_raw_fd(),
                    0,
                )
            };
            assert_ne!(start, libc::MAP_FAILED);
            start.cast::<u8>()
        };
        let read = |start: *mut u8, from: usize, to: usize| {
            for at in (from..to).step_by(4096) {
                // SAFETY: within the mapping, to which nothing else writes.
                assert_eq!(unsafe { start.add(at).read_volatile() }, 7);
            }
        };
        // The creation reads the first half of the file, runs read the second and the last quarter.
        let (start, mapping) = Mapping::created(file.path(), || {
            let start = map(file.as_file());
            read(start, 0, BYTES / 2);
            start
        });
        if !mapping.is_marked {
            eprintln!("SKIPPED: this system does not report which pages are touched");
            return;
        }
        read(start, BYTES / 4, BYTES / 2);
        read(start, BYTES / 4 * 3, BYTES);
        let (all, quarter) = (BYTES as u64, BYTES as u64 / 4);
        assert_eq!(mapping.read_by_runs(true, all), all - quarter);
        // Copies are in memory, so at most as many pages are cold as the session has memory.
        assert_eq!(mapping.read_by_runs(true, 1000), all - 1000);
        assert_eq!(mapping.read_by_runs(false, quarter * 2), all - quarter * 2);
        // SAFETY: the mapping made above, which nothing uses any more.
        unsafe { libc::munmap(start.cast(), BYTES) };
    }
}
