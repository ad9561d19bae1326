//! The content that each thread is busy with, sent to the supervisor when a crash of the thread ends the process.
//!
//! ONNX Runtime can crash in the middle of a legal model. Nothing inside of the process can go on from there (but after
//! one kind of trap, `division.rs`), and from outside a dead process looks the same whichever model killed it. So a
//! thread [marks](Mark) the content that it loads, runs or frees, and a handler for the signals of a crash sends the mark
//! as a [`Note`]; then the signal takes its course.
//!
//! A thread of ONNX Runtime's own pool has no mark: it works for whichever model runs elsewhere. Its crash is blamed on the
//! one content that is marked anywhere in the process, and on nobody when there are several.
//!
//! What always holds: the handler allocates nothing, locks nothing and never waits. A signal that no handler sees
//! (SIGKILL) blames nobody.

#![expect(
    unsafe_code,
    reason = "only the crashing thread knows its model, and only a signal handler can say it then"
)]

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// The signals of a process that has made a mistake, but for SIGFPE, whose handler is `division.rs`'s and reports here.
const CRASHES: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGABRT];

/// [`CONTENT`] of a thread that is busy with no model.
const NOBODY: u64 = 0;

thread_local! {
    /// Without a destructor and with a constant for a start, so that reading it in a handler runs no code.
    static CONTENT: Cell<u64> = const { Cell::new(NOBODY) };
}

/// The marks of all threads, each in a place of its own: a thread that marks disturbs no other. Threads beyond these are
/// blamed for their own crashes only.
static MARKS: [Seat; 1024] = [const { Seat(AtomicU64::new(NOBODY)) }; 1024];

/// As wide as what processors exchange at once.
#[repr(align(64))]
struct Seat(AtomicU64);

/// Seats that are taken. Never given back: the threads that run models live as long as the process.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SEAT: Option<&'static Seat> = MARKS.get(TAKEN.fetch_add(1, Ordering::Relaxed));
}

/// The socket that notes go to; negative while there is none.
static CHANNEL: AtomicI32 = AtomicI32::new(-1);

/// While it lives, this thread's crash is blamed on a content.
#[derive(Debug)]
pub struct Mark {
    /// Of an outer mark.
    before: u64,
}

impl Mark {
    /// `content` is a `ContentHash::short`.
    pub fn new(content: u64) -> Self {
        Self { before: set(content) }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        set(self.before);
    }
}

/// Marks this thread, and returns what it was marked with.
fn set(content: u64) -> u64 {
    SEAT.with(|seat| {
        if let Some(seat) = seat {
            seat.0.store(content, Ordering::Relaxed);
        }
    });
    CONTENT.replace(content)
}

/// The one content that is marked in `seats`.
fn only_one(seats: &[Seat]) -> Option<u64> {
    let marks = seats.iter().map(|seat| seat.0.load(Ordering::Relaxed));
    let mut marks = marks.filter(|&content| content != NOBODY);
    let only = marks.next()?;
    marks.all(|content| content == only).then_some(only)
}

/// A thread's last words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    pub signal: i32,
    /// The content that the thread was busy with, a `ContentHash::short`.
    pub content: u64,
}

impl Note {
    /// The first byte of a note; no text begins with it.
    const TAG: u8 = 0;
    const BYTES: usize = 10;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [Self::TAG; Self::BYTES];
        // Signals that a handler can be set for are below 65.
        bytes[1] = self.signal.to_le_bytes()[0];
        bytes[2..].copy_from_slice(&self.content.to_le_bytes());
        bytes
    }

    /// Reads a message of the channel; `None` for what is no note.
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

/// Sends notes to `channel`, a socket that keeps messages apart, for as long as the process lives.
pub fn report_to(channel: OwnedFd) -> io::Result<()> {
    // Never closed: a handler may want it at any time.
    CHANNEL.store(channel.into_raw_fd(), Ordering::Relaxed);
    for signal in CRASHES {
        // SAFETY: all zeroes is a `sigaction` without flags, mask and handler; the pointers are to it and to nothing. The
        // handler has the signature that SA_SIGINFO promises and does only what a handler may (see there). SA_ONSTACK
        // has it run where there is room when a stack has overflowed: Rust gives each of its threads such a place.
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

/// Sends the note. SA_RESETHAND has put the default action back, so what crashed does so again after the return, and this
/// time ends the process with the same signal.
extern "C" fn on_crash(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    report(signal);
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`; `raise` may be called in a handler.
    unsafe {
        // Sent by a process (as by `abort`), not by what the thread does: it would not come again by itself.
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Sends the note of a crash by `signal`, if there is anything to say. May be called in a handler, and only there: the
/// process is to end.
pub(super) fn report(signal: c_int) {
    let content = match CONTENT.get() {
        NOBODY => only_one(&MARKS),
        content => Some(content),
    };
    if let Some(content) = content {
        let note = Note { signal, content }.to_bytes();
        // SAFETY: `send` may be called in a handler; the bytes are valid, the flags keep it from waiting and from
        // raising another signal, and a descriptor that is none is an error that nobody looks at.
        unsafe {
            libc::send(
                CHANNEL.load(Ordering::Relaxed),
                note.as_ptr().cast(),
                note.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_is_sent_and_text_is_none() {
        let note = Note {
            signal: libc::SIGFPE,
            content: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(Note::parse(&note.to_bytes()), Some(note));
        for other in [&b""[..], b"\0", b"{\"ready\":null}", &[0; 9], &[0; 11]] {
            assert_eq!(Note::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_crash_without_a_mark_is_blamed_on_the_only_content_there_is() {
        let table: [(&[u64], Option<u64>); 6] = [
            (&[], None),
            (&[NOBODY, NOBODY], None),
            (&[NOBODY, 7, NOBODY], Some(7)),
            (&[7, NOBODY, 7], Some(7)),
            (&[7, 8], None),
            (&[7, 7, NOBODY, 8], None),
        ];
        for (marks, expected) in table {
            let seats: Vec<Seat> = marks.iter().map(|&mark| Seat(AtomicU64::new(mark))).collect();
            assert_eq!(only_one(&seats), expected, "{marks:?}");
        }
    }

    #[test]
    fn a_mark_lasts_as_long_as_it_lives_and_gives_way_to_an_inner_one() {
        assert_eq!(CONTENT.get(), NOBODY);
        let outer = Mark::new(1);
        {
            let _inner = Mark::new(2);
            assert_eq!(CONTENT.get(), 2);
        }
        assert_eq!(CONTENT.get(), 1);
        drop(outer);
        assert_eq!(CONTENT.get(), NOBODY);
    }
}
