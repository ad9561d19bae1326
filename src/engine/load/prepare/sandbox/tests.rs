//! Tries each act of a model that runs its own code in a child, from inside the sandbox.
//!
//! Each test forks twice per act. Without the sandbox the act must not be refused, or the test
//! would prove nothing; with the sandbox it must be.

#![expect(
    unsafe_code,
    reason = "the acts are system calls, and the processes that try them are forked"
)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;

use libc::{c_int, c_long, pid_t};
use tempfile::TempDir;

use super::*;

/// The output of a forked process, and its status from `waitpid`.
#[derive(Debug)]
struct Ended {
    output: String,
    status: c_int,
}

/// Runs `work` in a forked process.
fn forked(work: impl FnOnce() -> String) -> Ended {
    let mut ends = [0; 2];
    // SAFETY: `ends` has space for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: both descriptors were made above, and each has one owner.
    let (mut reader, mut writer) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    // SAFETY: the new process has one thread, which runs `work` and ends without returning. The
    // allocator handles forks itself; `work` takes no other lock that a thread of the parent may
    // hold.
    let process = unsafe { libc::fork() };
    assert!(process >= 0);
    if process == 0 {
        let output = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| "panicked".to_owned());
        let _ = writer.write_all(output.as_bytes());
        // SAFETY: ends the process, and nothing of it is used afterwards.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    assert_eq!(unsafe { libc::waitpid(process, &mut status, 0) }, process);
    Ended { output, status }
}

/// A child's folder, and files outside it.
struct Scene {
    folder: TempDir,
    others: TempDir,
}

impl Scene {
    fn new() -> Self {
        let (folder, others) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        for name in [INPUT, OUTPUT] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join(INPUT).join("model"), "model").unwrap();
        fs::write(folder.path().join(OUTPUT).join("prepared"), "").unwrap();
        fs::write(others.path().join("file"), "another model").unwrap();
        Self { folder, others }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join(INPUT).join("model")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join(OUTPUT).join("prepared")
    }

    fn other(&self) -> PathBuf {
        self.others.path().join("file")
    }

    /// Runs `work` in a process in the sandbox. Also returns the layers that the system lacks.
    fn inside(&self, work: impl FnOnce() -> String) -> (Ended, String) {
        let ended = forked(|| {
            let mut lacking = enter().unwrap();
            lacking.extend(close(self.folder.path()).unwrap());
            format!("{}\n{}", lacking.join("; "), work())
        });
        match ended.output.split_once('\n') {
            Some((lacking, output)) => {
                let (lacking, output) = (lacking.to_owned(), output.to_owned());
                (Ended { output, ..ended }, lacking)
            }
            None => (ended, String::new()),
        }
    }
}

type Act = fn(&Scene, pid_t) -> io::Result<()>;

/// Converts the result of a system call, which is -1 if it fails.
fn called(result: c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        // SAFETY: the arguments match the call, with pointers that stay valid until it returns, or
        // null.
        called(unsafe { libc::syscall(libc::$number $(, $argument)*) })
    };
}

fn own() -> pid_t {
    std::process::id().cast_signed()
}

fn open_for_writing(path: impl AsRef<Path>) -> io::Result<()> {
    File::options().write(true).open(path).map(drop)
}

/// Forks by `call`, and waits for the new process.
fn fork_by(call: impl FnOnce() -> c_long) -> io::Result<()> {
    let process = call();
    if process == 0 {
        // SAFETY: as in `forked`.
        unsafe { libc::_exit(0) };
    }
    called(process)?;
    // SAFETY: a null pointer means that the status is not wanted.
    unsafe { libc::waitpid(process as pid_t, ptr::null_mut(), 0) };
    Ok(())
}

/// Acts on the parent, which is a process of the same user.
const ON_PROCESSES: &[(&str, Act)] = &[
    ("write memory by /proc", |_, parent| {
        open_for_writing(format!("/proc/{parent}/mem"))
    }),
    ("read memory by /proc", |_, parent| {
        File::open(format!("/proc/{parent}/mem")).map(drop)
    }),
    ("read the environment", |_, parent| {
        fs::read(format!("/proc/{parent}/environ")).map(drop)
    }),
    ("list descriptors", |_, parent| {
        fs::read_dir(format!("/proc/{parent}/fd")).map(drop)
    }),
    ("open a descriptor by /proc", |_, parent| {
        File::open(format!("/proc/{parent}/exe")).map(drop)
    }),
    ("process_vm_readv", |_, parent| {
        call!(
            SYS_process_vm_readv,
            parent,
            ptr::null::<u8>(),
            0,
            ptr::null::<u8>(),
            0,
            0
        )
    }),
    ("process_vm_writev", |_, parent| {
        call!(
            SYS_process_vm_writev,
            parent,
            ptr::null::<u8>(),
            0,
            ptr::null::<u8>(),
            0,
            0
        )
    }),
    ("ptrace", |_, parent| {
        call!(SYS_ptrace, libc::PTRACE_SEIZE, parent, 0, 0)?;
        call!(SYS_ptrace, libc::PTRACE_INTERRUPT, parent, 0, 0)?;
        // SAFETY: as above; waits for the stop that was asked for.
        unsafe { libc::waitpid(parent, ptr::null_mut(), libc::__WALL) };
        call!(SYS_ptrace, libc::PTRACE_DETACH, parent, 0, 0)
    }),
    ("pidfd_open", |_, parent| call!(SYS_pidfd_open, parent, 0)),
    ("pidfd_getfd", |_, parent| {
        // SAFETY: the arguments are two numbers.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, parent, 0) };
        called(process)?;
        call!(SYS_pidfd_getfd, process, 0, 0)
    }),
    ("kill", |_, parent| call!(SYS_kill, parent, 0)),
    ("kill all", |_, _| call!(SYS_kill, 0, 0)),
    ("tkill", |_, parent| call!(SYS_tkill, parent, 0)),
    ("tgkill", |_, parent| call!(SYS_tgkill, parent, parent, 0)),
    ("prlimit", |_, parent| {
        call!(SYS_prlimit64, parent, libc::RLIMIT_NOFILE, 0, 0)
    }),
    ("setpriority", |_, parent| {
        call!(SYS_setpriority, libc::PRIO_PROCESS, parent, 0)
    }),
    ("sched_setscheduler", |_, parent| {
        let parameters: c_int = 0;
        call!(SYS_sched_setscheduler, parent, libc::SCHED_OTHER, &raw const parameters)
    }),
];

const ON_FILES: &[(&str, Act)] = &[
    ("read another file", |scene, _| fs::read(scene.other()).map(drop)),
    ("read a file of the system", |_, _| fs::read("/etc/passwd").map(drop)),
    ("list a folder", |scene, _| fs::read_dir(scene.others.path()).map(drop)),
    ("write another file", |scene, _| open_for_writing(scene.other())),
    ("write the model", |scene, _| open_for_writing(scene.input())),
    ("make a file", |scene, _| {
        File::create(scene.others.path().join("new")).map(drop)
    }),
    ("make a file beside the model", |scene, _| {
        File::create(scene.folder.path().join(INPUT).join("new")).map(drop)
    }),
    ("make a file beside the prepared form", |scene, _| {
        File::create(scene.folder.path().join(OUTPUT).join("new")).map(drop)
    }),
    ("remove a file", |scene, _| fs::remove_file(scene.output())),
    ("rename a file", |scene, _| {
        fs::rename(scene.output(), scene.output().with_extension("x"))
    }),
    ("link", |scene, _| {
        std::os::unix::fs::symlink("/etc", scene.output().with_extension("y"))
    }),
    ("link a file", |scene, _| {
        fs::hard_link(scene.other(), scene.output().with_extension("z"))
    }),
    ("make a folder", |scene, _| {
        fs::create_dir(scene.others.path().join("folder"))
    }),
    ("change rights", |scene, _| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(scene.output(), fs::Permissions::from_mode(0o777))
    }),
    ("change times", |scene, _| {
        let path = std::ffi::CString::new(scene.other().into_os_string().into_encoded_bytes())?;
        call!(SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), 0, 0)
    }),
    ("truncate", |scene, _| {
        let path = std::ffi::CString::new(scene.other().into_os_string().into_encoded_bytes())?;
        call!(SYS_truncate, path.as_ptr(), 0)
    }),
];

const ON_THE_SYSTEM: &[(&str, Act)] = &[
    // SAFETY: as in `forked`.
    ("fork", |_, _| fork_by(|| c_long::from(unsafe { libc::fork() }))),
    // SAFETY: as in `forked`; the flags do not change that.
    ("clone", |_, _| {
        // SAFETY: as in `forked`; the flags do not change that.
        fork_by(|| unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })
    }),
    ("clone3", |_, _| {
        // `struct clone_args` with a signal for the parent.
        let arguments: [u64; 8] = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        // SAFETY: the structure of this version lives until the call returns; otherwise as in
        // `forked`.
        fork_by(|| unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })
    }),
    ("execve", |_, _| {
        // A missing program does not count as a refusal.
        match call!(SYS_execve, c"/nowhere".as_ptr(), ptr::null::<u8>(), ptr::null::<u8>()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }),
    ("setsid", |_, _| call!(SYS_setsid)),
    ("socket", |_, _| call!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("unix socket", |_, _| {
        call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)
    }),
    ("netlink socket", |_, _| {
        call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)
    }),
    ("socketpair", |_, _| {
        let mut pair: [c_int; 2] = [0; 2];
        call!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr())
    }),
    ("memfd_create", |_, _| call!(SYS_memfd_create, c"x".as_ptr(), 0)),
    ("shared memory", |_, _| {
        call!(SYS_shmget, libc::IPC_PRIVATE, 4096, 0o600)
    }),
    ("shared memory without a file", |_, _| {
        call!(
            SYS_mmap,
            0,
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0
        )
    }),
    ("inotify", |_, _| call!(SYS_inotify_init1, 0)),
    ("keyctl", |_, _| call!(SYS_keyctl, 0, -3, 0)),
    ("unshare", |_, _| call!(SYS_unshare, libc::CLONE_FS)),
    ("outlive the parent", |_, _| {
        call!(SYS_prctl, libc::PR_SET_PDEATHSIG, 0, 0, 0, 0)
    }),
    ("be traced", |_, _| call!(SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)),
];

/// Acts that only root may do and that some systems lack; their result outside does not matter.
const ON_THE_KERNEL: &[(&str, Act)] = &[
    ("mount", |_, _| {
        call!(SYS_mount, c"x".as_ptr(), c"/x".as_ptr(), c"tmpfs".as_ptr(), 0, 0)
    }),
    ("bpf", |_, _| call!(SYS_bpf, 0, 0, 0)),
    ("perf_event_open", |_, _| call!(SYS_perf_event_open, 0, 0, -1, -1, 0)),
    ("userfaultfd", |_, _| call!(SYS_userfaultfd, 1)),
    ("io_uring_setup", |_, _| call!(SYS_io_uring_setup, 1, 0)),
    ("user namespace", |_, _| call!(SYS_unshare, libc::CLONE_NEWUSER)),
    ("chroot", |_, _| call!(SYS_chroot, c"/".as_ptr())),
    ("reboot", |_, _| call!(SYS_reboot, 0, 0, 0, 0)),
    ("rt_sigqueueinfo", |_, parent| call!(SYS_rt_sigqueueinfo, parent, 0, 0)),
];

/// Whether the kernel refused an act, rather than failed it for another reason.
fn is_refused(result: &io::Result<()>) -> bool {
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS].map(Some);
    matches!(result, Err(error) if refusals.contains(&error.raw_os_error()))
}

fn shown(result: &io::Result<()>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(error) if is_refused(result) => format!("refused: {error}"),
        Err(error) => format!("failed: {error}"),
    }
}

#[test]
fn acts_on_processes_files_and_the_system_are_refused_inside_and_not_outside() {
    let parent = own();
    for &(name, act) in ON_PROCESSES.iter().chain(ON_FILES).chain(ON_THE_SYSTEM) {
        let scene = Scene::new();
        let outside = forked(|| shown(&act(&scene, parent)));
        assert!(!outside.output.starts_with("refused"), "{name} outside: {outside:?}");
        let scene = Scene::new();
        let (inside, lacking) = scene.inside(|| shown(&act(&scene, parent)));
        assert!(
            inside.output.starts_with("refused"),
            "{name} inside: {inside:?} {lacking}"
        );
    }
}

#[test]
fn acts_of_root_are_refused_inside_even_to_root() {
    let parent = own();
    for &(name, act) in ON_THE_KERNEL {
        let scene = Scene::new();
        let (inside, lacking) = scene.inside(|| shown(&act(&scene, parent)));
        assert!(inside.output.starts_with("refused"), "{name}: {inside:?} {lacking}");
    }
}

#[test]
fn each_layer_refuses_by_itself() {
    // Without the filter of system calls: Landlock and the rest.
    let scene = Scene::new();
    let parent = own();
    let by_files = forked(|| {
        enter().unwrap();
        set_no_new_privs(true).unwrap();
        if let Err(lack) = files::close(scene.folder.path()) {
            return format!("lacking {lack}");
        }
        let acts = ON_FILES.iter().filter(|(name, _)| !name.starts_with("change"));
        let done: Vec<&str> = acts
            .filter(|(_, act)| !is_refused(&act(&scene, parent)))
            .map(|(name, _)| *name)
            .collect();
        done.join(", ")
    });
    if by_files.output.starts_with("lacking") {
        eprintln!("SKIPPED: {}", by_files.output);
    } else {
        assert_eq!(by_files.output, "", "{by_files:?}");
    }
    // Without Landlock and namespaces: the filter.
    let scene = Scene::new();
    let by_calls = forked(|| {
        hide().unwrap();
        set_no_new_privs(true).unwrap();
        calls::close().unwrap();
        let acts = ON_PROCESSES
            .iter()
            .filter(|(name, _)| !name.contains("/proc") && !name.starts_with("read"));
        let acts = acts.filter(|(name, _)| !name.starts_with("list")).chain(ON_THE_SYSTEM);
        let done: Vec<&str> = acts
            .filter(|(_, act)| !is_refused(&act(&scene, parent)))
            .map(|(name, _)| *name)
            .collect();
        done.join(", ")
    });
    assert_eq!(by_calls.output, "", "{by_calls:?}");
}

/// Acts that need the permission to inspect another process.
const REACHING: [&str; 5] = [
    "write memory by /proc",
    "read the environment",
    "list descriptors",
    "ptrace",
    "pidfd_getfd",
];

#[test]
fn a_hidden_process_cannot_be_reached_by_others_of_its_user() {
    // The user must not be root, who may do everything.
    let hidden = forked(|| {
        // SAFETY: the arguments are numbers; without root, the test already runs as another user.
        unsafe {
            libc::setgid(54321);
            libc::setuid(54321);
        }
        // The change of the user hides the process, too.
        call!(SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0).unwrap();
        let not_reached = || {
            let parent = own();
            let acts = ON_PROCESSES.iter().filter(|(name, _)| REACHING.contains(name));
            let scene = Scene {
                folder: TempDir::new().unwrap(),
                others: TempDir::new().unwrap(),
            };
            let not = acts.filter(|(_, act)| forked(|| shown(&act(&scene, parent))).output != "done");
            not.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        };
        let before = not_reached();
        hide().unwrap();
        format!("{before}; {}", not_reached())
    });
    assert_eq!(hidden.output, format!("; {}", REACHING.join(", ")), "{hidden:?}");
}

#[test]
fn a_child_reads_its_model_writes_its_form_starts_threads_and_has_limits() {
    let scene = Scene::new();
    let (inside, lacking) = scene.inside(|| {
        assert_eq!(fs::read_to_string(scene.input()).unwrap(), "model");
        let mut output = File::options()
            .write(true)
            .truncate(true)
            .create(true)
            .open(scene.output())
            .unwrap();
        output.write_all(b"prepared").unwrap();
        assert_eq!(fs::read_to_string(scene.output()).unwrap(), "prepared");
        let thread = std::thread::Builder::new().name("another".to_owned());
        let denied = thread.spawn({
            let other = scene.other();
            move || fs::read(other).is_err()
        });
        assert!(denied.unwrap().join().unwrap());
        // The limits apply from here on.
        limit_child(1 << 30, 1 << 20).unwrap();
        for _ in 0..2 {
            limit_job(1 << 20, 1).unwrap();
            let bound = || getrlimit(Resource::Data).current;
            let before = bound();
            let allowed = allow_mapping(1 << 20);
            assert_eq!(bound(), before.map(|bound| bound + (1 << 20)));
            drop(allowed);
            assert_eq!(bound(), before);
        }
        let most = getrlimit(Resource::Data).maximum;
        let raised = Rlimit {
            current: most,
            maximum: None,
        };
        assert!(setrlimit(Resource::Data, raised).is_err());
        assert!(setrlimit(Resource::Fsize, raised).is_err());
        "fine".to_owned()
    });
    assert_eq!(inside.output, "fine", "{inside:?} {lacking}");
}

#[test]
fn files_that_are_moved_into_the_folder_later_are_readable() {
    let scene = Scene::new();
    let (ready_read, ready_write) = io::pipe().unwrap();
    let (go_read, go_write) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let (mut ready, mut go) = (ready_read, go_write);
            ready.read_exact(&mut [0]).unwrap();
            fs::create_dir(scene.others.path().join("job")).unwrap();
            fs::write(scene.others.path().join("job/file"), "moved").unwrap();
            fs::rename(
                scene.others.path().join("job"),
                scene.folder.path().join(INPUT).join("job"),
            )
            .unwrap();
            go.write_all(b"x").unwrap();
        });
        let (inside, lacking) = scene.inside(|| {
            (&ready_write).write_all(b"x").unwrap();
            (&go_read).read_exact(&mut [0]).unwrap();
            fs::read_to_string(scene.folder.path().join(INPUT).join("job/file")).unwrap()
        });
        assert_eq!(inside.output, "moved", "{inside:?} {lacking}");
        mover.join().unwrap();
    });
}

#[test]
fn a_child_that_crashes_or_aborts_ends_with_that_signal() {
    let scene = Scene::new();
    for (signal, end) in [
        (libc::SIGABRT, (|| std::process::abort()) as fn() -> String),
        // SAFETY: the address is not mapped, so the read crashes, which is the purpose.
        (libc::SIGSEGV, || {
            // SAFETY: the address is not mapped, so the read crashes, which is the purpose.
            unsafe { ptr::null::<u8>().wrapping_add(8).read_volatile() }.to_string()
        }),
    ] {
        let ended = forked(|| {
            // Rust's own handlers would print more than the signal.
            // SAFETY: restores the system's handlers.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            enter().unwrap();
            close(scene.folder.path()).unwrap();
            end()
        });
        assert!(libc::WIFSIGNALED(ended.status), "{ended:?}");
        assert_eq!(libc::WTERMSIG(ended.status), signal);
    }
}
