//! Copies a model that is a folder of objects to the disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::FetchError;
use super::error::StoreError;
use super::found::Folder;
use super::progress::ProgressReader;
use crate::archive::is_full;

/// Copies the files of the folder at `url` to `target`, which is empty. The listing has checked
/// their names.
pub(super) fn copy(folder: &Folder, url: &str, target: &Path) -> Result<(), FetchError> {
    for stored in folder.files() {
        let path = target.join(stored.name.as_str());
        let disk = |error: io::Error| {
            let reason = format!("write {:?}: {error}", stored.name.as_str());
            match is_full(&error) {
                true => FetchError::NoRoom(reason),
                false => FetchError::Disk(reason),
            }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(disk)?;
        }
        let mut file = File::create_new(&path).map_err(disk)?;
        let mut source = ProgressReader::new(folder.reader(stored), url, stored.bytes);
        io::copy(&mut source, &mut file).map_err(|error| match StoreError::of(&error) {
            Some(error) => error.clone().into(),
            None => disk(error),
        })?;
    }
    Ok(())
}
