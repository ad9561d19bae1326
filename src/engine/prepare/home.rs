//! A child's folder, and how a job's files get there and back.
//!
//! A child can read one folder and write to another, for as long as it lives, and it does one job after the other. So the
//! files of a job are moved in, and moved out again when it is done: a child never sees those of two jobs at a time, nor
//! those of another child.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::protocol::Job;
use super::sandbox::{INPUT, OUTPUT};
use crate::private::{self, Temporary};

/// Removed on drop.
#[derive(Debug)]
pub(super) struct Home {
    folder: Temporary,
}

/// The files of a job in a child's folder.
#[derive(Debug)]
pub(super) struct Lent {
    /// With the paths there.
    pub(super) job: Job,
    /// From where to where, in the order in which they were moved.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Home {
    pub(super) fn new(place: &Path) -> io::Result<Self> {
        private::make(place).map_err(io::Error::other)?;
        let folder = Temporary::new(place)?;
        for name in [INPUT, OUTPUT] {
            fs::create_dir(folder.path().join(name))?;
        }
        Ok(Self { folder })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whether this lies in `place`, and is still there: the cache's folder may be deleted at any time.
    pub(super) fn is_in(&self, place: &Path) -> bool {
        self.path().parent() == Some(place) && self.path().join(INPUT).exists()
    }

    /// Moves the job's files here. Without a file for the prepared form there is none.
    pub(super) fn lend(&self, job: &Job) -> io::Result<Lent> {
        let mut lent = Lent {
            job: job.clone(),
            moved: Vec::new(),
        };
        let (Some(folder), Some(name)) = (job.model.parent(), job.model.file_name()) else {
            return Err(io::Error::other("a model without a folder"));
        };
        let model = self.path().join(INPUT).join("model");
        lent.move_to(folder, &model)?;
        lent.job.model = model.join(name);
        if let Some(prepared) = &job.prepared {
            let file = self.path().join(OUTPUT).join("prepared.ort");
            lent.job.prepared = lent.move_to(prepared, &file).is_ok().then_some(file);
        }
        Ok(lent)
    }
}

impl Lent {
    fn move_to(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        self.moved.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Moves the files back to where they were. A prepared form that is gone is missed when it is to be kept.
    pub(super) fn take_back(mut self) -> io::Result<()> {
        self.move_back()
    }

    fn move_back(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for (from, to) in self.moved.drain(..).rev() {
            // The last is the model.
            result = fs::rename(to, from);
        }
        result
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Of a job that was not begun; nothing is left after `take_back`.
        let _ = self.move_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_childs_for_a_job_and_where_they_were_before_and_after() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::new(place.path()).unwrap();
        let copy = place.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join("m.onnx"), "model").unwrap();
        fs::write(place.path().join("new"), "").unwrap();
        let job = Job {
            model: copy.join("m.onnx"),
            weights: 1,
            is_ort_format: false,
            prepared: Some(place.path().join("new")),
            memory: 1,
            widened: 0,
            fold: true,
            most: 1,
            probe: true,
        };
        for _ in 0..2 {
            let lent = home.lend(&job).unwrap();
            assert!(!copy.exists() && !place.path().join("new").exists());
            assert_eq!(fs::read_to_string(&lent.job.model).unwrap(), "model");
            let prepared = lent.job.prepared.clone().unwrap();
            assert!(lent.job.model.starts_with(home.path()) && prepared.starts_with(home.path()));
            fs::write(prepared, "prepared").unwrap();
            lent.take_back().unwrap();
            assert_eq!(fs::read_to_string(copy.join("m.onnx")).unwrap(), "model");
            assert_eq!(fs::read_to_string(place.path().join("new")).unwrap(), "prepared");
        }
        assert!(home.is_in(place.path()) && !home.is_in(&copy));
        // Without a file for the prepared form, there is none.
        fs::remove_file(place.path().join("new")).unwrap();
        let lent = home.lend(&job).unwrap();
        assert_eq!(lent.job.prepared, None);
        lent.take_back().unwrap();
        assert!(copy.join("m.onnx").exists());
        fs::remove_dir_all(home.path()).unwrap();
        assert!(home.lend(&job).is_err() && copy.exists());
        assert!(!home.is_in(place.path()));
    }
}
