//! The signal handler that steps over a division without a result, and the state that permits it.
//!
//! Two kinds of threads run models. Each of our own threads has a flag and a count of its traps
//! ([`watch`]). Threads of ONNX Runtime have none: their traps are stepped over while any run uses
//! such threads, and counted for the whole process ([`in_pool`]).
//!
//! Quotient and remainder become 0 whatever the operands are. The outputs of the run are discarded
//! anyway, and 0 is the value that is least likely to lead an index or a count out of bounds.
//!
//! Invariants: the handler allocates nothing, takes no lock, calls nothing and changes only the
//! registers that the instruction would have changed. Any trap other than a division on a
//! permitted thread takes the default action, which ends the process.

#![expect(
    unsafe_code,
    reason = "only a signal handler can continue after a trap, by changing the registers that the kernel saved"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::decode::{Division, Width, decode};
use crate::engine::run::crash;

/// `FPE_INTDIV` and `FPE_INTOVF` of Linux, which the `libc` crate lacks. Linux reports the first
/// in both cases.
const INTEGER_DIVISION: [c_int; 2] = [1, 2];

thread_local! {
    // Without destructors and with constant initial values, so that access from a handler runs no
    // code.
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Traps of this thread that were stepped over.
    static TRAPS: Cell<u64> = const { Cell::new(0) };
}

/// Runs that use the pool now.
static USING_POOL: AtomicUsize = AtomicUsize::new(0);

/// Traps that were stepped over on threads of the pool.
static IN_POOL: AtomicU64 = AtomicU64::new(0);

/// Handles SIGFPE in this process from now on.
pub fn install() -> io::Result<()> {
    // SAFETY: all zeroes is a `sigaction` without flags, mask and handler. One pointer refers to
    // it, the other is null. The handler has the signature that SA_SIGINFO requires and does only
    // what a signal handler may (see there).
    let set = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_trap as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGFPE, &raw const action, ptr::null_mut())
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Does `work` on this thread. Returns its result and whether the handler stepped over a division
/// in it.
pub fn watch<T>(work: impl FnOnce() -> T) -> (T, bool) {
    /// Restores the flag, also when the work panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IS_WATCHED.set(self.0);
        }
    }
    let traps = TRAPS.get();
    let before = Before(IS_WATCHED.replace(true));
    let result = work();
    drop(before);
    (result, TRAPS.get() != traps)
}

/// Traps of the pool's threads so far.
pub fn in_pool() -> u64 {
    // A run has waited for its threads when it returns, so their counts are visible then.
    IN_POOL.load(Ordering::Relaxed)
}

/// Permits stepping over traps of the pool's threads, until [`leave_pool`] was called as often.
pub fn watch_pool() {
    // The threads that receive work from the run see the new count together with that work.
    USING_POOL.fetch_add(1, Ordering::Relaxed);
}

pub fn leave_pool() {
    USING_POOL.fetch_sub(1, Ordering::Relaxed);
}

extern "C" fn on_trap(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    let is_watched = IS_WATCHED.get();
    let may_go_on = is_watched || USING_POOL.load(Ordering::Relaxed) > 0;
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted thread's `ucontext_t`, which
    // nothing else refers to. The code shows that the processor raised the signal, hence RIP is
    // at the instruction that trapped.
    if INTEGER_DIVISION.contains(&code) && may_go_on && unsafe { step_over(context.cast()) } {
        if is_watched {
            TRAPS.set(TRAPS.get().wrapping_add(1));
        } else {
            IN_POOL.fetch_add(1, Ordering::Relaxed);
        }
        return;
    }
    crash::report(signal);
    // SAFETY: `signal` and `raise` may be called in a handler.
    unsafe {
        // The trap repeats after the return and then ends the process with the same signal.
        libc::signal(signal, libc::SIG_DFL);
        // A process sent the signal. It would not repeat by itself.
        if code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Makes the interrupted thread continue after a division, with zeros as its result. If it is at
/// another instruction, changes nothing and returns false.
///
/// # Safety
/// `context` is the pointer that the kernel passed to the handler of a trap in this thread.
unsafe fn step_over(context: *mut libc::ucontext_t) -> bool {
    // SAFETY: valid by the caller's promise. There is no other reference to it, because its
    // thread is the one that runs the handler.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let register = |name: c_int| usize::try_from(name).unwrap_or_default();
    let (rip, rax, rdx) = (
        register(libc::REG_RIP),
        register(libc::REG_RAX),
        register(libc::REG_RDX),
    );
    let at = registers[rip] as *const u8;
    // SAFETY: the processor has just fetched the instruction at `at`, so its bytes are mapped,
    // and code is readable. `decode` takes one byte at a time and none beyond the end of the
    // instruction.
    let bytes = (0..).map(|index| unsafe { at.add(index).read() });
    let Some(Division { length, width }) = decode(bytes) else {
        return false;
    };
    let clear = match width {
        // AL and AH are the lower half of AX.
        Width::Bits8 => {
            registers[rax] &= !0xffff;
            None
        }
        Width::Bits16 => Some(!0xffff),
        // A write to a 32-bit register clears its upper half.
        Width::Bits32 | Width::Bits64 => Some(0),
    };
    if let Some(mask) = clear {
        registers[rax] &= mask;
        registers[rdx] &= mask;
    }
    registers[rip] += i64::from(length);
    true
}

/// Lock for tests in which threads of the pool trap, because the count is that of the whole
/// process.
#[cfg(test)]
pub(super) static POOL: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
pub(super) fn trap_here() {
    let mut quotient = 1u64;
    // SAFETY: the handler is installed by the caller's test; a division changes RAX, RDX and
    // flags.
    unsafe { std::arch::asm!("idiv {0}", in(reg) 0u64, inout("rax") quotient, inout("rdx") 0u64 => _) };
    assert_eq!(quotient, 0);
}

#[cfg(test)]
mod tests {
    use std::arch::asm;
    use std::sync::PoisonError;
    use std::thread;

    use super::*;

    /// RAX and RDX before and after.
    type Registers = (u64, u64);

    /// Executes one division with these registers. The divisor is in RCX, R13 and memory, so that
    /// the operand can be any of them.
    macro_rules! divide {
        ($instruction:literal, $before:expr, $divisor:expr) => {{
            let (mut rax, mut rdx): Registers = $before;
            let divisor: i64 = $divisor;
            // Space on both sides for operands with an offset.
            let memory = [divisor; 200];
            let went_on: u64;
            // SAFETY: a division reads its operand and writes RAX, RDX and flags. All operands
            // are within `memory`.
            unsafe {
                asm!(
                    $instruction,
                    "mov r11, 77",
                    inout("rax") rax,
                    inout("rdx") rdx,
                    in("rcx") divisor,
                    in("r13") divisor,
                    in("r8") &raw const memory[100],
                    in("r12") &raw const memory[100],
                    in("r9") 3u64,
                    out("r11") went_on,
                );
            }
            assert_eq!(went_on, 77, "{}: the next instruction", $instruction);
            (rax, rdx)
        }};
    }

    const LEAST: u64 = i64::MIN as u64;
    const ONES: u64 = u64::MAX;

    #[test]
    fn divisions_without_a_result_give_zero_and_are_counted_and_the_thread_continues() {
        install().unwrap();
        let minus = -1;
        let least_32 = (0xffff_ffff_8000_0000, 0xffff_ffff_ffff_ffff);
        let least_16 = (0x1111_1111_1111_8000, 0x2222_2222_2222_ffff);
        let least_8 = (0x1111_1111_1111_ff80, 0x2222_2222_2222_2222);
        macro_rules! check {
            ($($instruction:literal, $before:expr, $divisor:expr => $after:expr;)*) => {$(
                let (after, has_trapped) = watch(|| divide!($instruction, $before, $divisor));
                assert_eq!(after, $after, $instruction);
                assert!(has_trapped, $instruction);
            )*};
        }
        check! {
            "idiv rcx", (LEAST, ONES), minus => (0, 0);
            "idiv r13", (LEAST, ONES), minus => (0, 0);
            "idiv rcx", (7, 0), 0 => (0, 0);
            "div rcx", (7, 0), 0 => (0, 0);
            "div r13", (0, 7), 7 => (0, 0);
            "idiv ecx", least_32, minus => (0, 0);
            "idiv r13d", least_32, minus => (0, 0);
            "div ecx", (7, 0), 0 => (0, 0);
            "idiv cx", least_16, minus => (0x1111_1111_1111_0000, 0x2222_2222_2222_0000);
            "div cx", least_16, 0 => (0x1111_1111_1111_0000, 0x2222_2222_2222_0000);
            "idiv cl", least_8, minus => (0x1111_1111_1111_0000, 0x2222_2222_2222_2222);
            "div cl", least_8, 0 => (0x1111_1111_1111_0000, 0x2222_2222_2222_2222);
            // In memory, in all addressing modes.
            "idiv qword ptr [r8]", (LEAST, ONES), minus => (0, 0);
            "idiv qword ptr [r8 + 8]", (LEAST, ONES), minus => (0, 0);
            "idiv qword ptr [r8 - 800]", (LEAST, ONES), minus => (0, 0);
            "idiv qword ptr [r12]", (LEAST, ONES), minus => (0, 0);
            "idiv qword ptr [r12 + 16]", (LEAST, ONES), minus => (0, 0);
            "idiv qword ptr [r8 + r9*8]", (LEAST, ONES), minus => (0, 0);
            "idiv qword ptr [r8 + r9*8 + 400]", (LEAST, ONES), minus => (0, 0);
            "idiv dword ptr [r8 + r9*4]", least_32, minus => (0, 0);
            "div dword ptr [r8 + 4]", (7, 0), 0 => (0, 0);
            "idiv word ptr [r8]", least_16, minus => (0x1111_1111_1111_0000, 0x2222_2222_2222_0000);
            "idiv byte ptr [r8]", least_8, minus => (0x1111_1111_1111_0000, 0x2222_2222_2222_2222);
        }
    }

    #[test]
    fn divisions_with_a_result_are_not_changed() {
        install().unwrap();
        let (after, has_trapped) = watch(|| divide!("idiv rcx", (-7i64 as u64, ONES), 2));
        assert_eq!((after, has_trapped), ((-3i64 as u64, -1i64 as u64), false));
        // An earlier trap does not count for this work.
        watch(|| divide!("idiv rcx", (1, 0), 0));
        assert!(!watch(|| ()).1);
    }

    #[test]
    fn nested_watches_both_count_a_trap() {
        install().unwrap();
        let ((inner, between), outer) = watch(|| {
            let inner = watch(|| divide!("idiv rcx", (1, 0), 0)).1;
            (inner, divide!("idiv rcx", (2, 0), 0))
        });
        assert!(inner && outer);
        assert_eq!(between, (0, 0), "the outer watch is still active");
        assert!(!IS_WATCHED.get());
    }

    #[test]
    fn traps_of_other_threads_are_stepped_over_and_counted_while_a_run_uses_the_pool() {
        install().unwrap();
        let _turn = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let before = in_pool();
        watch_pool();
        let (after, mine) = watch(|| thread::spawn(|| divide!("idiv rcx", (1, 0), 0)).join().unwrap());
        leave_pool();
        assert_eq!((after, mine), ((0, 0), false));
        assert_eq!(in_pool(), before + 1);
    }

    #[test]
    fn a_panic_ends_the_watch() {
        let panicked = std::panic::catch_unwind(|| watch(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert!(!IS_WATCHED.get());
    }
}
