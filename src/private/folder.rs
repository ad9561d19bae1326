//! Checks the owner and permissions of a folder and of the path to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// Most links that are followed on the way to a folder, as in the kernel.
const MOST_LINKS: usize = 40;

/// Reasons why a folder cannot hold files that only this user may write.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{} cannot be used: {source}", folder.display())]
    Unusable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} belongs to user {owner}, expected this user{}; name another folder", at.display(), or_root(*.is_last))]
    Owner { at: PathBuf, owner: u32, is_last: bool },
    #[error(
        "{} can be written to by other users (mode {mode:03o}); remove their write permission (chmod go-w) or name another \
         folder",
        at.display()
    )]
    Writable { at: PathBuf, mode: u32 },
    #[error("{} is not a folder, expected one that belongs to this user; name another", at.display())]
    NotAFolder { at: PathBuf },
}

fn or_root(is_last: bool) -> &'static str {
    if is_last { "" } else { " or root" }
}

/// Creates `folder` if it is missing, and checks that no other user can write to it or replace it.
pub fn make(folder: &Path) -> Result<(), Refusal> {
    let unusable = |source| Refusal::Unusable {
        folder: folder.to_owned(),
        source,
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    check(folder, rustix::process::geteuid().as_raw())
}

/// Checks the existing `folder` for `user`.
fn check(folder: &Path, user: u32) -> Result<(), Refusal> {
    let unusable = |source| Refusal::Unusable {
        folder: folder.to_owned(),
        source,
    };
    let absolute = std::path::absolute(folder).map_err(unusable)?;
    let mut rest: VecDeque<OsString> = names(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    check_on_the_way(&at, &fs::symlink_metadata(&at).map_err(unusable)?, user)?;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let metadata = fs::symlink_metadata(&next).map_err(unusable)?;
        if rest.is_empty() {
            return check_last(&next, &metadata, user);
        }
        if !metadata.is_symlink() {
            at = next;
            check_on_the_way(&at, &metadata, user)?;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(unusable(io::Error::other("there are too many links on the way to it")));
        }
        check_owner(&next, &metadata, user, false)?;
        let target = fs::read_link(&next).map_err(unusable)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        let mut names = names(&target);
        names.append(&mut rest);
        rest = names;
    }
    check_last(&at, &fs::symlink_metadata(&at).map_err(unusable)?, user)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let components = path.components();
    components
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Checks the folder itself, which must belong to this user and must not be a link.
fn check_last(at: &Path, metadata: &Metadata, user: u32) -> Result<(), Refusal> {
    if !metadata.is_dir() {
        return Err(Refusal::NotAFolder { at: at.to_owned() });
    }
    check_owner(at, metadata, user, true)?;
    check_mode(at, metadata, false)
}

/// Checks a folder on the path, which may belong to root. Where others may write, the sticky bit
/// must keep them from renaming entries of other users (as in `/tmp`).
fn check_on_the_way(at: &Path, metadata: &Metadata, user: u32) -> Result<(), Refusal> {
    check_owner(at, metadata, user, false)?;
    check_mode(at, metadata, metadata.mode() & 0o1000 != 0)
}

fn check_owner(at: &Path, metadata: &Metadata, user: u32, is_last: bool) -> Result<(), Refusal> {
    const ROOT: u32 = 0;
    let owner = metadata.uid();
    if owner == user || (!is_last && owner == ROOT) {
        return Ok(());
    }
    Err(Refusal::Owner {
        at: at.to_owned(),
        owner,
        is_last,
    })
}

fn check_mode(at: &Path, metadata: &Metadata, is_sticky: bool) -> Result<(), Refusal> {
    if metadata.mode() & 0o022 == 0 || is_sticky {
        return Ok(());
    }
    Err(Refusal::Writable {
        at: at.to_owned(),
        mode: metadata.mode() & 0o7777,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A folder with `mode` at `path` below `root`.
    fn at(root: &Path, path: &str, mode: u32) -> PathBuf {
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn a_created_folder_and_its_parents_belong_to_this_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b/c");
        make(&folder).unwrap();
        for made in ["a", "a/b", "a/b/c"] {
            let mode = fs::metadata(root.path().join(made)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700, "{made}");
        }
        make(&folder).unwrap();
    }

    #[test]
    fn a_folder_on_the_path_that_others_may_write_to_is_refused_by_name_unless_it_is_sticky() {
        for (mode, is_refused) in [
            (0o777, true),
            (0o770, true),
            (0o702, true),
            (0o1777, false),
            (0o755, false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let open = at(root.path(), "open", mode);
            let result = make(&open.join("deep/cache"));
            let refused = matches!(&result, Err(Refusal::Writable { at, .. }) if at.ends_with("open"));
            assert_eq!(refused, is_refused, "{mode:o} {result:?}");
            assert_eq!(result.is_err(), is_refused);
        }
    }

    #[test]
    fn the_folder_itself_must_be_neither_open_and_sticky_nor_a_link() {
        let root = tempfile::tempdir().unwrap();
        let result = make(&at(root.path(), "open", 0o1777));
        assert!(matches!(result, Err(Refusal::Writable { .. })), "{result:?}");
        symlink(at(root.path(), "own", 0o700), root.path().join("link")).unwrap();
        let result = make(&root.path().join("link"));
        assert!(matches!(result, Err(Refusal::NotAFolder { .. })), "{result:?}");
        // On the path, a link that belongs to this user is followed.
        make(&root.path().join("link/cache")).unwrap();
    }

    #[test]
    fn folders_behind_a_link_on_the_path_are_checked() {
        let root = tempfile::tempdir().unwrap();
        let open = at(root.path(), "open", 0o777);
        at(&open, "inner", 0o700);
        symlink("open/inner", root.path().join("first")).unwrap();
        symlink("first", root.path().join("second")).unwrap();
        let result = make(&root.path().join("second/cache"));
        assert!(
            matches!(&result, Err(Refusal::Writable { at, .. }) if at.ends_with("open")),
            "{result:?}"
        );
        symlink("loop", root.path().join("loop")).unwrap();
        let result = check(&root.path().join("loop/cache"), rustix::process::geteuid().as_raw());
        assert!(matches!(result, Err(Refusal::Unusable { .. })), "{result:?}");
    }

    #[test]
    fn a_folder_or_link_of_another_user_is_refused_by_name() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a folder away");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let given = at(root.path(), "given", 0o755);
        chown(&given, Some(54321), None).unwrap();
        for folder in [given.clone(), given.join("below")] {
            let result = make(&folder);
            assert!(
                matches!(&result, Err(Refusal::Owner { at, owner: 54321, .. }) if *at == given),
                "{result:?}"
            );
        }
        let own = at(root.path(), "own", 0o700);
        let link = root.path().join("link");
        symlink(&own, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(54321), None).unwrap();
        let result = make(&link.join("cache"));
        assert!(
            matches!(&result, Err(Refusal::Owner { at, .. }) if *at == link),
            "{result:?}"
        );
        // A folder of root's may be on the path, but not at its end.
        let others = at(root.path(), "root", 0o755);
        let theirs = at(&others, "theirs", 0o755);
        chown(&theirs, Some(54321), None).unwrap();
        chown(root.path(), Some(0), None).unwrap();
        check(&theirs, 54321).unwrap();
        assert!(matches!(check(&others, 54321), Err(Refusal::Owner { .. })));
    }
}
