//! A child's folder, and the moves of a job's files into it and back.
//!
//! A child can read one folder and write to another as long as it lives, and it does one job after
//! the other. So the files of a job are moved into its folder, and moved out when the job is done:
//! a child never sees the files of two jobs at a time, nor those of another child.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::protocol::PrepareJob;
use super::sandbox::{INPUT, OUTPUT};
use crate::private::{self, Temporary};

/// Name of the file of constants, as the graph that a child writes has it.
pub const CONSTANTS: &str = "prepared.constants";

/// A child's folder. It is removed on drop.
#[derive(Debug)]
pub(super) struct ChildFolder {
    folder: Temporary,
}

/// The files of a job while they are in a child's folder.
#[derive(Debug)]
pub(super) struct MovedJob {
    /// The job with its paths in the child's folder.
    pub(super) job: PrepareJob,
    /// Original and current paths, in the order of the moves.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl ChildFolder {
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

    /// Whether the folder is in `place` and still exists: the cache's folder may be deleted at any
    /// time.
    pub(super) fn is_in(&self, place: &Path) -> bool {
        self.path().parent() == Some(place) && self.path().join(INPUT).exists()
    }

    /// Moves the job's files here. If a file for the prepared form is gone, the job has none.
    pub(super) fn move_in(&self, job: &PrepareJob) -> io::Result<MovedJob> {
        let mut moved_job = MovedJob {
            job: job.clone(),
            moved: Vec::new(),
        };
        let (Some(folder), Some(name)) = (job.model.parent(), job.model.file_name()) else {
            return Err(io::Error::other("a model without a folder"));
        };
        let model = self.path().join(INPUT).join("model");
        moved_job.move_to(folder, &model)?;
        moved_job.job.model = model.join(name);
        if let Some(prepared) = &job.prepared {
            let file = self.path().join(OUTPUT).join("prepared.ort");
            moved_job.job.prepared = moved_job.move_to(prepared, &file).is_ok().then_some(file);
        }
        if let Some(constants) = &job.constants {
            let file = self.path().join(OUTPUT).join(CONSTANTS);
            moved_job.job.constants = moved_job.move_to(constants, &file).is_ok().then_some(file);
        }
        Ok(moved_job)
    }
}

impl MovedJob {
    fn move_to(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        self.moved.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Moves the files back. If the prepared form is gone, the cache notices it later.
    pub(super) fn take_back(mut self) -> io::Result<()> {
        self.move_back()
    }

    fn move_back(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for (from, to) in self.moved.drain(..).rev() {
            // The model is last, so its error is returned.
            result = fs::rename(to, from);
        }
        result
    }
}

impl Drop for MovedJob {
    fn drop(&mut self) {
        // Only for a job that did not start; after `take_back` there is nothing to move.
        let _ = self.move_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_move_to_the_child_for_a_job_and_back_afterwards() {
        let place = tempfile::tempdir().unwrap();
        let home = ChildFolder::new(place.path()).unwrap();
        let copy = place.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join("m.onnx"), "model").unwrap();
        fs::write(place.path().join("new"), "").unwrap();
        let job = PrepareJob {
            model: copy.join("m.onnx"),
            weights: 1,
            is_ort_format: false,
            prepared: Some(place.path().join("new")),
            constants: None,
            large: 0,
            memory: 1,
            widened: 0,
            fold: true,
            most: 1,
            probe: true,
        };
        for _ in 0..2 {
            let moved_job = home.move_in(&job).unwrap();
            assert!(!copy.exists() && !place.path().join("new").exists());
            assert_eq!(fs::read_to_string(&moved_job.job.model).unwrap(), "model");
            let prepared = moved_job.job.prepared.clone().unwrap();
            assert!(moved_job.job.model.starts_with(home.path()) && prepared.starts_with(home.path()));
            fs::write(prepared, "prepared").unwrap();
            moved_job.take_back().unwrap();
            assert_eq!(fs::read_to_string(copy.join("m.onnx")).unwrap(), "model");
            assert_eq!(fs::read_to_string(place.path().join("new")).unwrap(), "prepared");
        }
        assert!(home.is_in(place.path()) && !home.is_in(&copy));
        // If the file for the prepared form is gone, the job has none.
        fs::remove_file(place.path().join("new")).unwrap();
        let moved_job = home.move_in(&job).unwrap();
        assert_eq!(moved_job.job.prepared, None);
        moved_job.take_back().unwrap();
        assert!(copy.join("m.onnx").exists());
        fs::remove_dir_all(home.path()).unwrap();
        assert!(home.move_in(&job).is_err() && copy.exists());
        assert!(!home.is_in(place.path()));
    }
}
