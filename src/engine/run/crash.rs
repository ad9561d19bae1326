//! Crash reports: the content that a thread works on, sent to the supervisor when a crash of that
//! thread ends the process.
//!
//! ONNX Runtime can crash in the middle of a valid model. The process cannot recover (except from
//! one kind of trap, see `division.rs`), and from outside a dead process does not show which
//! model killed it. So each thread [marks](CrashMarker) the content that it loads, runs or frees.
//! A handler for the crash signals sends the marked content as a [`CrashReport`]; then the signal
//! takes its default action.
//!
//! A thread of ONNX Runtime's own pool has no marker, because it works for any model. Its crash is
//! attributed to the one content that is marked in the whole process, and to none if there are
//! several.
//!
//! Invariants: the handler allocates nothing, takes no lock and never waits. A signal that no
//! handler sees (SIGKILL) is attributed to no content.

#![expect(
    unsafe_code,
    reason = "only the crashing thread knows its model, and only a signal handler can report it then"
)]

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// Signals that a crash raises. SIGFPE is missing: its handler is in `division.rs` and reports
/// here.
const CRASHES: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGABRT];

/// Value of [`CONTENT`] in a thread that works on no model.
const NO_CONTENT: u64 = 0;

thread_local! {
    /// The content that this thread works on. It has no destructor and a constant initial value,
    /// so that reading it in a handler runs no code.
    static CONTENT: Cell<u64> = const { Cell::new(NO_CONTENT) };
}

/// The marked contents of all threads, one slot for each, so that threads do not contend when they
/// set markers. Threads beyond this number have no slot: only their own crashes are attributed.
static MARKS: [Slot; 1024] = [const { Slot(AtomicU64::new(NO_CONTENT)) }; 1024];

/// One thread's marked content, as large as a cache line.
#[repr(align(64))]
struct Slot(AtomicU64);

/// Number of slots in use. Slots are never released: threads that run models live as long as the
/// process.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Option<&'static Slot> = MARKS.get(TAKEN.fetch_add(1, Ordering::Relaxed));
}

/// The socket for crash reports; negative while there is none.
static CHANNEL: AtomicI32 = AtomicI32::new(-1);

/// Attributes a crash of this thread to a content for as long as it exists.
#[derive(Debug)]
pub struct CrashMarker {
    /// The content of the enclosing marker.
    outer: u64,
}

impl CrashMarker {
    /// `content` is a `ContentHash::short`.
    pub fn new(content: u64) -> Self {
        Self { outer: set(content) }
    }
}

impl Drop for CrashMarker {
    fn drop(&mut self) {
        set(self.outer);
    }
}

/// Marks this thread with `content` and returns the previous content.
fn set(content: u64) -> u64 {
    SLOT.with(|slot| {
        if let Some(slot) = slot {
            slot.0.store(content, Ordering::Relaxed);
        }
    });
    CONTENT.replace(content)
}

/// Returns the only content that is marked in `slots`; `None` for none or several.
fn only_one(slots: &[Slot]) -> Option<u64> {
    let marks = slots.iter().map(|slot| slot.0.load(Ordering::Relaxed));
    let mut marks = marks.filter(|&content| content != NO_CONTENT);
    let only = marks.next()?;
    marks.all(|content| content == only).then_some(only)
}

/// A crash and the content it is attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashReport {
    pub signal: i32,
    /// The content that the thread worked on, a `ContentHash::short`.
    pub content: u64,
}

impl CrashReport {
    /// The first byte of a report. No text message begins with it.
    const TAG: u8 = 0;
    const BYTES: usize = 10;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [Self::TAG; Self::BYTES];
        // The numbers of signals that can have a handler are below 65.
        bytes[1] = self.signal.to_le_bytes()[0];
        bytes[2..].copy_from_slice(&self.content.to_le_bytes());
        bytes
    }

    /// Parses a message from the channel; `None` if it is not a crash report.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (&[Self::TAG, signal], content) = message.split_first_chunk()? else {
            return None;
        };
        Some(Self {
            signal: signal.into(),
            content: u64::from_le_bytes(content.try_into().ok()?),
        })
    }
}

/// Installs the handlers, which send crash reports to `channel` for the life of the process.
/// `channel` is a socket that preserves message boundaries.
pub fn report_to(channel: OwnedFd) -> io::Result<()> {
    // Never closed: a handler may use it at any time.
    CHANNEL.store(channel.into_raw_fd(), Ordering::Relaxed);
    for signal in CRASHES {
        // SAFETY: all zeroes is a `sigaction` without flags, mask and handler. One pointer refers
        // to it, the other is null. The handler has the signature that SA_SIGINFO requires and
        // does only what a signal handler may (see there). With SA_ONSTACK it runs on the
        // alternate stack that Rust gives each of its threads, so it also works after a stack
        // overflow.
        let set = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_crash as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sends the report. SA_RESETHAND has restored the default action, so the crash repeats after the
/// return and then ends the process with the same signal.
extern "C" fn on_crash(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    report(signal);
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`. `raise` may be called in a
    // handler.
    unsafe {
        // A process sent the signal, as `abort` does. It would not repeat by itself.
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Sends the report of a crash by `signal`, if it can be attributed to a content. Call it in a
/// signal handler only, when the process is about to end.
pub(in crate::engine) fn report(signal: c_int) {
    let content = match CONTENT.get() {
        NO_CONTENT => only_one(&MARKS),
        content => Some(content),
    };
    if let Some(content) = content {
        let report = CrashReport { signal, content }.to_bytes();
        // SAFETY: `send` may be called in a handler. The bytes are valid. The flags keep it from
        // waiting and from raising another signal. An invalid descriptor gives an error, which is
        // ignored.
        unsafe {
            libc::send(
                CHANNEL.load(Ordering::Relaxed),
                report.as_ptr().cast(),
                report.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_parses_to_what_was_sent_and_text_does_not_parse() {
        let report = CrashReport {
            signal: libc::SIGFPE,
            content: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(CrashReport::parse(&report.to_bytes()), Some(report));
        for other in [&b""[..], b"\0", b"{\"ready\":null}", &[0; 9], &[0; 11]] {
            assert_eq!(CrashReport::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_crash_without_a_marker_is_attributed_to_the_only_marked_content() {
        let table: [(&[u64], Option<u64>); 6] = [
            (&[], None),
            (&[NO_CONTENT, NO_CONTENT], None),
            (&[NO_CONTENT, 7, NO_CONTENT], Some(7)),
            (&[7, NO_CONTENT, 7], Some(7)),
            (&[7, 8], None),
            (&[7, 7, NO_CONTENT, 8], None),
        ];
        for (marks, expected) in table {
            let slots: Vec<Slot> = marks.iter().map(|&mark| Slot(AtomicU64::new(mark))).collect();
            assert_eq!(only_one(&slots), expected, "{marks:?}");
        }
    }

    #[test]
    fn a_marker_lasts_until_it_is_dropped_and_an_inner_one_overrides_it() {
        assert_eq!(CONTENT.get(), NO_CONTENT);
        let outer = CrashMarker::new(1);
        {
            let _inner = CrashMarker::new(2);
            assert_eq!(CONTENT.get(), 2);
        }
        assert_eq!(CONTENT.get(), 1);
        drop(outer);
        assert_eq!(CONTENT.get(), NO_CONTENT);
    }
}
