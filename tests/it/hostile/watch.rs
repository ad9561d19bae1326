//! Detects whether a file was opened.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use rustix::io::Errno;

/// Watches a file from its creation on.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    pub fn on(path: &Path) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let events = inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS;
        inotify::add_watch(&watch, path, events).unwrap();
        Self(watch)
    }

    /// Fails if any process has opened or read the file. Then opens the file, to prove that the
    /// watch works.
    #[track_caller]
    pub fn assert_unopened(&self, path: &Path) {
        assert_eq!(self.next(), Err(Errno::AGAIN), "the file was opened");
        drop(std::fs::File::open(path).unwrap());
        assert!(self.next().is_ok(), "the watch missed an open");
    }

    fn next(&self) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        inotify::Reader::new(&self.0, &mut buffer).next().map(|_| ())
    }
}
