//! The keys file on the disk: read and replaced under a lock, so that of two edits at once none is lost, and replaced
//! whole, so that nobody ever reads half a file.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A keys file that nobody else edits for as long as this lives. What is locked is its directory, with an advisory
/// lock: the file itself is replaced, and a lock on it would go with the old one.
#[derive(Debug)]
pub struct LockedFile {
    target: PathBuf,
    directory: File,
}

impl LockedFile {
    /// Waits for the lock. Links are followed: what they lead to is read and replaced. The file need not exist.
    ///
    /// # Errors
    /// When the directory cannot be opened or locked, or the path is a link that leads nowhere.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let error = |doing| move |error| FileError { doing, path: path.to_owned(), error };
        let target = target(path).map_err(error("find"))?;
        let directory =
            File::open(target.parent().unwrap_or(Path::new("/"))).map_err(error("open the directory of"))?;
        directory.lock().map_err(error("lock the directory of"))?;
        Ok(Self { target, directory })
    }

    /// The whole file; `None` when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read or is not UTF-8.
    pub fn read(&self) -> Result<Option<String>, FileError> {
        match fs::read_to_string(&self.target) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("read", error)),
        }
    }

    /// Replaces the file by one that holds `text`, with the same owner and permissions (a new one only its owner may
    /// read), and returns when it is on the disk. On an error the old file stays.
    ///
    /// # Errors
    /// When a step of this fails, keeping its owner included.
    pub fn write(&self, text: &str) -> Result<(), FileError> {
        let (fresh, file) = self.fresh().map_err(|error| self.error("make a new file beside", error))?;
        let renamed = |()| fs::rename(&fresh, &self.target).map_err(explain_mount);
        let written = self.fill(&file, text).and_then(renamed);
        if let Err(error) = written {
            // What could not take the old file's place is of no use; that it cannot be removed would hide why.
            let _ = fs::remove_file(&fresh);
            return Err(self.error("replace", error));
        }
        self.directory.sync_all().map_err(|error| self.error("save the directory of", error))
    }

    /// An empty file in the same directory, under a name that nobody else has.
    fn fresh(&self) -> io::Result<(PathBuf, File)> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let fresh = self.target.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        Ok((fresh, file))
    }

    fn fill(&self, mut file: &File, text: &str) -> io::Result<()> {
        file.write_all(text.as_bytes())?;
        match fs::metadata(&self.target) {
            Ok(old) => take_after(file, &old)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        file.sync_all()
    }

    fn error(&self, doing: &'static str, error: io::Error) -> FileError {
        FileError { doing, path: self.target.clone(), error }
    }
}

/// A file that is mounted by itself, as containers mount single files, cannot be replaced: EBUSY.
fn explain_mount(error: io::Error) -> io::Error {
    if error.kind() != ErrorKind::ResourceBusy {
        return error;
    }
    let said = format!(
        "{error}: the file is mounted by itself (a bind mount), and such a file cannot be replaced; mount the directory that it is in instead"
    );
    io::Error::new(ErrorKind::ResourceBusy, said)
}

/// Gives a file the owner and the permissions of another.
fn take_after(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid())).map_err(|error| {
            let owner = format!("{}:{}", old.uid(), old.gid());
            io::Error::new(error.kind(), format!("its owner {owner} cannot be kept ({error}); run this as that user"))
        })?;
    }
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))
}

/// Where the file is, or will be, that `path` leads to.
fn target(path: &Path) -> io::Result<PathBuf> {
    target_of(path, path.canonicalize())
}

/// The same, where a first look has `found` this.
fn target_of(path: &Path, found: io::Result<PathBuf>) -> io::Result<PathBuf> {
    let found = match (found, path.symlink_metadata()) {
        (Err(error), Err(_)) if error.kind() == ErrorKind::NotFound => {
            let name = path.file_name().ok_or(error)?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Ok(directory.canonicalize()?.join(name));
        }
        // Somebody made it between the two looks.
        (Err(error), Ok(about)) if error.kind() == ErrorKind::NotFound && !about.is_symlink() => path.canonicalize()?,
        (found, _) => found?,
    };
    let is_file = found.metadata()?.is_file();
    is_file.then_some(found).ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
}

/// What could not be done with a file, and why.
#[derive(Debug, Error)]
#[error("cannot {doing} {}: {error}", path.display())]
pub struct FileError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    error: io::Error,
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, thread};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    fn write(path: &Path, text: &str) -> Result<(), FileError> {
        LockedFile::open(path)?.write(text)
    }

    #[test]
    fn a_new_file_is_only_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        assert_eq!(LockedFile::open(&path).unwrap().read().unwrap(), None);
        write(&path, "keys: []\n").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("keys: []\n", 0o600));
    }

    #[test]
    fn owner_and_permissions_stay_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        fs::write(&path, "old").unwrap();
        // Only root may give it to somebody else; for others it is about their own.
        let _ = std::os::unix::fs::chown(&path, Some(12345), Some(12345));
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let owner = path.metadata().unwrap().uid();
        write(&path, "new").unwrap();
        assert_eq!(path.metadata().unwrap().uid(), owner);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", 0o640));
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_and_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (data, link) = (directory.path().join("data"), directory.path().join("keys.yaml"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("real.yaml"), "old").unwrap();
        symlink("data/real.yaml", &link).unwrap();
        write(&link, "new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(data.join("real.yaml")).unwrap(), "new");
    }

    #[test]
    fn what_cannot_be_replaced_stays_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (link, missing) = (directory.path().join("link"), directory.path().join("no/keys.yaml"));
        symlink("nowhere", &link).unwrap();
        for path in [directory.path(), &link, &missing] {
            let error = LockedFile::open(path).unwrap_err().to_string();
            assert!(error.starts_with("cannot find ") && error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn of_a_file_that_is_mounted_by_itself_it_is_said_what_to_mount() {
        const EBUSY: i32 = 16;
        let said = explain_mount(io::Error::from_raw_os_error(EBUSY)).to_string();
        assert!(said.contains("bind mount") && said.contains("mount the directory"), "{said}");
        let other = explain_mount(ErrorKind::PermissionDenied.into());
        assert_eq!(other.to_string(), io::Error::from(ErrorKind::PermissionDenied).to_string());
    }

    #[test]
    fn a_file_that_was_made_a_moment_ago_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        fs::write(&path, "").unwrap();
        let not_found = || Err(ErrorKind::NotFound.into());
        assert_eq!(target_of(&path, not_found()).unwrap(), path.canonicalize().unwrap());
        symlink("nowhere", directory.path().join("link")).unwrap();
        assert!(target_of(&directory.path().join("link"), not_found()).is_err());
    }

    #[test]
    fn edits_at_once_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        thread::scope(|scope| {
            for number in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    let file = LockedFile::open(path).unwrap();
                    let text = file.read().unwrap().unwrap_or_default();
                    file.write(&format!("{text}{number}\n")).unwrap();
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 16);
    }
}
